// bench mla without --challenge: attention over the latent cache alone, one query per sequence.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "cli/bench_mla.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/table.h"

namespace nibble::cli {

namespace {

// Sets of sequences take turns until their caches are together larger than a cache of the hardware.
constexpr double kColdBytes = 256e6;
constexpr std::int32_t kMaxSets = 64;
// Heads of the first and the last sequence that are compared with sums in double.
constexpr std::int32_t kCheckedHeads = 4;

// x to `bits` bits after the leading one, no finer than 2^lowest.
float rounded(float x, int bits, int lowest) {
  const float step = std::ldexp(1.0F, std::max(std::ilogb(x) - bits, lowest));
  return x == 0.0F ? x : std::nearbyint(x / step) * step;
}

// What the cache keeps of rows of `rank` latent and `rope` rotated values: bf16; FP8 with a scale per row,
// and the rope key in bf16.
void round_latents(const std::string& dtype, std::size_t rank, std::vector<float>& latent) {
  if (dtype == "f32") return;
  if (!dtype.starts_with("fp8")) {
    for (float& value : latent) value = rounded(value, 7, -133);
    return;
  }
  const bool e5m2 = dtype == "fp8_e5m2";
  for (std::size_t begin = 0; begin < latent.size(); begin += rank) {
    const std::span<float> row(latent.data() + begin, rank);
    float amax = 1e-12F;
    for (const float value : row) amax = std::max(amax, std::fabs(value));
    const float scale = amax / (e5m2 ? 57344.0F : 448.0F);
    for (float& value : row)
      value = scale * (e5m2 ? rounded(value / scale, 2, -16) : rounded(value / scale, 3, -9));
  }
}

struct Case {
  std::int32_t length = 0;
  std::int32_t batch = 0;
  std::int32_t heads = 0;
  std::string dtype;
};

struct Row {
  Case test;
  Timing timing;
};

class MlaTable {
 public:
  MlaTable(std::shared_ptr<ModuleDevice> device, const MlaBenchOptions& options, const MlaTablePlan& plan)
      : device_(std::move(device)), options_(options), plan_(plan) {}

  Status prepare() {
    const std::int32_t longest = std::ranges::max(plan_.lengths);
    // Sequence i holds rows i, i + 1, ... of one pool, so that no two are equal.
    const auto rows = static_cast<std::size_t>(longest) + num_offsets();
    latent_ = random_normal(rows * rank(), 3);
    k_pe_ = random_normal(rows * rope(), 4);
    NIB_TRY(latent_there_, copy_to(*device_, latent_));
    NIB_TRY(k_pe_there_, copy_to(*device_, k_pe_));
    return {};
  }

  // All cases of one module: equal heads and cache.
  Status run(std::int32_t heads, const std::string& dtype, std::vector<Row>& rows, Progress& progress) {
    const std::int32_t longest = std::ranges::max(plan_.lengths);
    const std::int32_t most = std::ranges::max(plan_.batches);
    std::int64_t tokens = 0;
    for (const std::int32_t length : plan_.lengths) {
      const std::int64_t padded = (std::int64_t{length} + 63) / 64 * 64;
      for (const std::int32_t batch : plan_.batches)
        tokens = std::max(tokens, padded * batch * num_sets(length, batch));
    }
    MlaModuleConfig config = options_.shape;
    config.hidden_size = 64;  // the projections are not used
    config.q_lora_rank = 0;
    config.num_heads = heads;
    config.cache_dtype = dtype;
    config.max_sequences = std::max(most, 1) * kMaxSets;
    config.max_length = longest;
    config.max_tokens = most;
    config.cache_tokens = tokens;
    NIB_TRY(module_, MlaModule::create_dummy(device_, config, 1));
    kept_latent_ = latent_;
    kept_k_pe_ = k_pe_;
    round_latents(dtype, rank(), kept_latent_);
    round_latents(dtype == "f32" ? "f32" : "bf16", rope(), kept_k_pe_);
    q_ = random_normal(static_cast<std::size_t>(most * heads) * rank(), 5);
    q_pe_ = random_normal(static_cast<std::size_t>(most * heads) * rope(), 6);
    // Scores of standard deviation one: no entry alone has the weight.
    const auto factor =
        static_cast<float>(1.0 / (softmax_scale() * std::sqrt(static_cast<double>(rank() + rope()))));
    for (auto* queries : {&q_, &q_pe_}) {
      for (float& value : *queries) value *= factor;
    }
    NIB_TRY(q_there_, copy_to(*device_, q_));
    NIB_TRY(q_pe_there_, copy_to(*device_, q_pe_));
    NIB_TRY(o_there_, device_->allocate(q_.size() * sizeof(float)));
    for (const std::int32_t length : plan_.lengths) {
      for (const std::int32_t batch : plan_.batches) {
        progress.callback()("bench mla", rows.size(), num_cases(), "cases");
        NIB_TRY(Row row, measure({length, batch, heads, dtype}));
        rows.push_back(std::move(row));
      }
    }
    return {};
  }

 private:
  [[nodiscard]] std::size_t rank() const { return static_cast<std::size_t>(options_.shape.kv_lora_rank); }
  [[nodiscard]] std::size_t rope() const { return static_cast<std::size_t>(options_.shape.qk_rope_head_dim); }
  [[nodiscard]] std::size_t num_cases() const {
    return plan_.lengths.size() * plan_.batches.size() * plan_.heads.size() * plan_.cache_dtypes.size();
  }
  static constexpr std::size_t num_offsets() { return 1024; }

  [[nodiscard]] std::int32_t num_sets(std::int32_t length, std::int32_t batch) const {
    const double bytes = 2.0 * static_cast<double>(rank() + rope()) * length * batch;
    return std::clamp(static_cast<std::int32_t>(kColdBytes / bytes), 1, kMaxSets);
  }

  Result<Row> measure(const Case& test) {
    std::vector<std::vector<MlaChunk>> sets;
    std::vector<AttentionPlan> plans;
    for (std::int32_t set = 0; set < num_sets(test.length, test.batch); ++set) {
      NIB_TRY(std::vector<MlaChunk> chunks, fill(test, set));
      NIB_TRY(AttentionPlan plan, module_->plan_attention(chunks));
      sets.push_back(std::move(chunks));
      plans.push_back(std::move(plan));
      if (interrupted()) return interrupted_error();
    }
    const auto round = [&]() -> Status {
      for (const AttentionPlan& plan : plans) {
        NIB_TRY_STATUS(module_->attend(plan, q_there_.f32(), q_pe_there_.f32(), o_there_.f32()));
      }
      return {};
    };
    Row row{.test = test};
    NIB_TRY(const double seconds,
            median_seconds(*device_, options_.repetitions, [&] { return device_->run_recorded(1, round); }));
    row.timing.seconds = seconds / static_cast<double>(plans.size());
    const double entries = static_cast<double>(test.length) * test.batch;
    row.timing.work.bytes = entries * static_cast<double>(module_->bytes_per_token());
    row.timing.work.flops = 2.0 * entries * test.heads * static_cast<double>(2 * rank() + rope());
    NIB_TRY_STATUS(module_->attend(plans.front(), q_there_.f32(), q_pe_there_.f32(), o_there_.f32()));
    NIB_TRY(row.timing.error, compare(test));
    device_->forget_recorded();  // the plans go
    for (const auto& chunks : sets) {
      for (const MlaChunk& chunk : chunks) NIB_TRY_STATUS(module_->free_sequence(chunk.sequence));
    }
    return row;
  }

  static std::size_t offset_of(const Case& test, std::int32_t set, std::int32_t s) {
    return static_cast<std::size_t>(set * test.batch + s) * 7 % num_offsets();
  }

  Result<std::vector<MlaChunk>> fill(const Case& test, std::int32_t set) {
    std::vector<MlaChunk> chunks;
    for (std::int32_t s = 0; s < test.batch; ++s) {
      NIB_TRY(const SequenceId id, module_->add_sequence());
      const std::size_t offset = offset_of(test, set, s);
      NIB_TRY_STATUS(module_->append_entries(id, test.length, latent_there_.f32() + offset * rank(),
                                             k_pe_there_.f32() + offset * rope()));
      chunks.push_back({id, 1});
    }
    return chunks;
  }

  // Some heads of the first and the last sequence of the first set.
  Result<double> compare(const Case& test) {
    const std::size_t heads = static_cast<std::size_t>(test.heads);
    NIB_TRY(const std::vector<float> o,
            copy_from(*device_, o_there_.f32(), static_cast<std::size_t>(test.batch) * heads * rank()));
    double worst = 0;
    for (const std::int32_t s : {0, test.batch - 1}) {
      for (std::int32_t i = 0; i < std::min(kCheckedHeads, test.heads); ++i) {
        const std::size_t head = static_cast<std::size_t>(i) * heads /
                                 static_cast<std::size_t>(std::min(kCheckedHeads, test.heads));
        const std::size_t query = static_cast<std::size_t>(s) * heads + head;
        const std::vector<double> want =
            define(query, offset_of(test, 0, s), static_cast<std::size_t>(test.length));
        worst = std::max(worst, row_error(std::span(o).subspan(query * rank(), rank()), want, rank()));
      }
      if (interrupted()) return interrupted_error();
    }
    return worst;
  }

  [[nodiscard]] double softmax_scale() const {
    const MlaModuleConfig& c = options_.shape;
    const bool scaled = c.yarn && c.yarn->mscale_all_dim != 0.0 && c.yarn->factor > 1.0;
    const double m = scaled ? 0.1 * c.yarn->mscale_all_dim * std::log(c.yarn->factor) + 1.0 : 1.0;
    return m * m / std::sqrt(static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim));
  }

  // softmax(scale * q . entries) * latents of one query, in double.
  [[nodiscard]] std::vector<double> define(std::size_t query, std::size_t offset, std::size_t length) const {
    const double scale = softmax_scale();
    const auto dot = [](const float* a, const float* b, std::size_t n) {
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
      return sum;
    };
    std::vector<double> p(length);
    double largest = -HUGE_VAL;
    for (std::size_t s = 0; s < length; ++s) {
      p[s] = scale * (dot(q_.data() + query * rank(), kept_latent_.data() + (offset + s) * rank(), rank()) +
                      dot(q_pe_.data() + query * rope(), kept_k_pe_.data() + (offset + s) * rope(), rope()));
      largest = std::max(largest, p[s]);
    }
    double sum = 0;
    for (double& score : p) sum += score = std::exp(score - largest);
    std::vector<double> o(rank(), 0.0);
    for (std::size_t s = 0; s < length; ++s) {
      for (std::size_t i = 0; i < rank(); ++i)
        o[i] += p[s] / sum * static_cast<double>(kept_latent_[(offset + s) * rank() + i]);
    }
    return o;
  }

  std::shared_ptr<ModuleDevice> device_;
  const MlaBenchOptions& options_;
  const MlaTablePlan& plan_;
  std::unique_ptr<MlaModule> module_;
  std::vector<float> latent_;
  std::vector<float> k_pe_;
  std::vector<float> kept_latent_;  // as the cache rounds them
  std::vector<float> kept_k_pe_;
  std::vector<float> q_;
  std::vector<float> q_pe_;
  DeviceArray latent_there_;
  DeviceArray k_pe_there_;
  DeviceArray q_there_;
  DeviceArray q_pe_there_;
  DeviceArray o_there_;
};

std::string as_text(const ModuleStamp& stamp, const std::vector<Row>& rows, const Limits& limits) {
  std::vector<Column> columns{{"length", true}, {"batch", true}, {"heads", true}, {"cache"}};
  std::ranges::copy(timing_columns(), std::back_inserter(columns));
  Table table(columns);
  for (const Row& row : rows) {
    std::vector<std::string> cells{std::to_string(row.test.length), std::to_string(row.test.batch),
                                   std::to_string(row.test.heads), row.test.dtype};
    std::ranges::copy(timing_cells(row.timing, limits), std::back_inserter(cells));
    table.add(cells);
  }
  return fmt::format(
      "attention of one decode step over the latent cache\n\n{}\n{}error: largest difference from sums in "
      "double over what the cache keeps, in units of the output's rms, bound {}\n",
      table.markdown(), describe(stamp, "bench mla", limits), error_bound("bf16"));
}

std::string as_json(const ModuleStamp& stamp, const std::vector<Row>& rows, const Limits& limits) {
  JsonWriter json;
  json.begin_object();
  write_stamp(json, stamp);
  write_limits(json, limits);
  json.key("results").begin_array();
  for (const Row& row : rows) {
    json.begin_object()
        .field("length", row.test.length)
        .field("batch", row.test.batch)
        .field("heads", row.test.heads)
        .field("cache_dtype", row.test.dtype);
    write_timing(json, row.timing, limits);
    json.field("error_bound", error_bound("bf16")).end_object();
  }
  return json.end_array().end_object().text() + "\n";
}

}  // namespace

Status run_mla_table(const std::shared_ptr<ModuleDevice>& device, const CommonOptions& common,
                     const MlaBenchOptions& options, const MlaTablePlan& plan, const ModuleStamp& stamp) {
  Limits limits{.on_gpu = device->kind() == DeviceKind::cuda};
  measure_now(*device, common, limits.before);
  std::vector<Row> rows;
  {
    Progress progress(common.progress);
    MlaTable table(device, options, plan);
    NIB_TRY_STATUS(table.prepare());
    for (const std::int32_t heads : plan.heads) {
      for (const std::string& dtype : plan.cache_dtypes)
        NIB_TRY_STATUS(table.run(heads, dtype, rows, progress));
    }
  }
  measure_now(*device, common, limits.after);
  NIB_TRY_STATUS(print(options.json ? as_json(stamp, rows, limits) : as_text(stamp, rows, limits)));
  for (const Row& row : rows) NIB_TRY_STATUS(check_errors(row.timing.error, error_bound("bf16")));
  return {};
}

}  // namespace nibble::cli
