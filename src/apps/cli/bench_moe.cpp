// nibble bench moe: one mixture-of-experts layer by itself at several batch sizes, against the time its
// weights take to be read or its products to be made, and against the definition.

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_module.h"
#include "cli/command.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "nibble/modules/moe.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxSize = 1 << 20;
// Layers take turns until the weights of a round are far larger than any cache.
constexpr double kColdBytesGpu = 8e9;
constexpr double kColdBytesCpu = 512e6;
constexpr std::int32_t kMaxColdLayers = 8;
// Tokens whose outputs are compared with the definition, per batch size.
constexpr std::int32_t kCheckedTokens = 2;

struct Shape {
  std::int32_t hidden = 0;
  std::int32_t intermediate = 0;
  std::int32_t experts = 0;
  std::int32_t topk = 0;
};
// DeepSeek-V4-Flash's experts on a GPU, DeepSeek-V2-Lite's on a CPU.
constexpr Shape kGpuShape{4096, 2048, 256, 6};
constexpr Shape kCpuShape{2048, 1408, 64, 6};

struct Row {
  std::int32_t tokens = 0;
  double experts_hit = 0;  // per call, mean
  Timing timing;
};

// Inputs, choices of experts and outputs of the calls of one round.
struct Batch {
  std::int32_t tokens = 0;
  std::int32_t num_calls = 0;
  std::vector<float> x;           // [calls, tokens, hidden]
  std::vector<std::int32_t> ids;  // [calls, tokens, topk], ascending for each token
  std::vector<float> weights;
  DeviceArray x_there;
  DeviceArray ids_there;
  DeviceArray weights_there;
  DeviceArray y_there;  // [tokens, hidden], shared by all calls
};

class BenchMoeCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Shape");
    options.add_path("--config", config_, "config.json with the sizes of the experts");
    options.add_integer("--hidden", shape_.hidden, 1, kMaxSize,
                        "Inputs of an expert; 4096 (on a CPU 2048) if not given");
    options.add_integer("--intermediate", shape_.intermediate, 1, kMaxSize,
                        "Its hidden values; 2048 (CPU 1408)");
    options.add_integer("--experts", shape_.experts, 1, 65536, "Experts; 256 (CPU 64)");
    options.add_integer("--topk", shape_.topk, 1, 65536, "Experts of a token; 6");
    options.add_text("--scheme,--experts-scheme", scheme_, "SCHEME",
                     "Number format: mxfp4, nvfp4, fp8, bf16, ...");
    options.add_flag("--gate", gate_,
                     "The whole layer: experts are chosen by a sigmoid gate in the same call");
    options.heading("Benchmark");
    turns_.define(options, "Batch sizes; 1,2,4,8,16,64,256,512,1024,4096 (CPU 1,4,16,64)");
  }

  Status run() override {
    const InterruptScope scope(nullptr);
    NIB_TRY(device_, open_device(turns_.common));
    limits_.on_gpu = device_->kind() == DeviceKind::cuda;
    NIB_TRY_STATUS(complete_shape());
    NIB_TRY_STATUS(make_layers());
    measure_now(*device_, turns_.common, limits_.before);
    std::vector<Row> rows;
    Progress progress(turns_.common.progress);
    for (const std::int32_t tokens : turns_.tokens) {
      progress.callback()("bench moe", rows.size(), turns_.tokens.size(), "batch sizes");
      NIB_TRY(Row row, measure(tokens));
      rows.push_back(row);
    }
    progress.clear();
    measure_now(*device_, turns_.common, limits_.after);
    NIB_TRY(const ModuleStamp stamp, make_module_stamp(*device_, turns_.common, arguments()));
    NIB_TRY_STATUS(print(turns_.json() ? as_json(stamp, rows) : as_text(stamp, rows)));
    double worst = 0;
    for (const Row& row : rows) worst = std::max(worst, row.timing.error);
    return check_errors(worst, error_bound(scheme_));
  }

 private:
  // Sizes from flags, else from the config, else the device's defaults.
  Status complete_shape() {
    Shape given = limits_.on_gpu ? kGpuShape : kCpuShape;
    if (!config_.empty()) {
      NIB_TRY(const ShapeFile file, ShapeFile::read(config_));
      NIB_TRY(given.hidden, file.size("hidden_size"));
      NIB_TRY(given.intermediate, file.size("moe_intermediate_size"));
      NIB_TRY(given.experts, file.size("n_routed_experts"));
      NIB_TRY(given.topk, file.size("num_experts_per_tok"));
    }
    if (shape_.hidden == 0) shape_.hidden = given.hidden;
    if (shape_.intermediate == 0) shape_.intermediate = given.intermediate;
    if (shape_.experts == 0) shape_.experts = given.experts;
    if (shape_.topk == 0) shape_.topk = given.topk;
    if (turns_.tokens.empty()) {
      turns_.tokens = limits_.on_gpu ? std::vector<std::int32_t>{1, 2, 4, 8, 16, 64, 256, 512, 1024, 4096}
                                     : std::vector<std::int32_t>{1, 4, 16, 64};
    }
    if (std::ranges::max(turns_.tokens) > kMaxSize) return bad_input("--tokens goes up to 1048576");
    return {};
  }

  Status make_layers() {
    const MoeModuleConfig config{.hidden_size = shape_.hidden,
                                 .intermediate_size = shape_.intermediate,
                                 .num_experts = shape_.experts,
                                 .experts_per_token = shape_.topk,
                                 .gate = gate_ ? MoeGate::sigmoid : MoeGate::none,
                                 .norm_topk_prob = true,
                                 .scheme = scheme_,
                                 .max_tokens = std::ranges::max(turns_.tokens)};
    const double cold = limits_.on_gpu ? kColdBytesGpu : kColdBytesCpu;
    const auto create = [&](std::uint64_t seed) { return MoeModule::create_dummy(device_, config, seed); };
    NIB_TRY(modules_, make_turns(create, turns_.layers, cold, kMaxColdLayers));
    return {};
  }

  [[nodiscard]] MoeModule& layer(std::int32_t call) {
    return *modules_[static_cast<std::size_t>(call) % modules_.size()];
  }

  Result<Row> measure(std::int32_t tokens) {
    NIB_TRY(Batch batch, make_batch(tokens));
    Row row{.tokens = tokens};
    const auto launch = [&] { return run_round(batch); };
    // A round is one recording: what is timed are the layers, one after the other, as in a model.
    const auto key = static_cast<std::uint64_t>(tokens);
    NIB_TRY(const double round,
            median_seconds(*device_, turns_.repetitions, [&] { return device_->run_recorded(key, launch); }));
    row.timing.seconds = round / batch.num_calls;
    if (gate_) NIB_TRY_STATUS(fetch_choices(batch));
    row.experts_hit = experts_hit(batch);
    const double size = static_cast<double>(shape_.hidden) * shape_.intermediate;
    row.timing.work.bytes = row.experts_hit * static_cast<double>(modules_.front()->expert_bytes());
    row.timing.work.flops = 6.0 * tokens * shape_.topk * size;
    row.timing.work.num_kernels = 2;
    row.timing.work.is_fp8 = scheme_.ends_with("a8");
    NIB_TRY(row.timing.error, compare(batch));
    device_->forget_recorded();  // the batch's memory goes
    return row;
  }

  // Few tokens: many calls, so that a round reads much; many tokens: each layer once or twice.
  Result<Batch> make_batch(std::int32_t tokens) {
    Batch batch{.tokens = tokens};
    const auto layers = static_cast<std::int32_t>(modules_.size());
    const std::int32_t calls = limits_.on_gpu ? (tokens <= 64 ? 24 : 4) : (tokens <= 4 ? 12 : 2);
    batch.num_calls = (calls + layers - 1) / layers * layers;
    const std::size_t rows = static_cast<std::size_t>(batch.num_calls) * static_cast<std::size_t>(tokens);
    batch.x = random_normal(rows * static_cast<std::size_t>(shape_.hidden), 17);
    std::mt19937_64 random(static_cast<std::uint64_t>(tokens));
    std::vector<std::int32_t> all(static_cast<std::size_t>(shape_.experts));
    std::iota(all.begin(), all.end(), 0);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::int32_t i = 0; i < shape_.topk; ++i) {  // the first topk of a shuffle
        std::swap(all[static_cast<std::size_t>(i)],
                  all[static_cast<std::size_t>(i) + random() % (all.size() - static_cast<std::size_t>(i))]);
      }
      std::sort(all.begin(), all.begin() + shape_.topk);
      batch.ids.insert(batch.ids.end(), all.begin(), all.begin() + shape_.topk);
    }
    batch.weights.assign(batch.ids.size(), 1.0F / static_cast<float>(shape_.topk));
    NIB_TRY(batch.x_there, copy_to(*device_, batch.x));
    NIB_TRY(batch.weights_there, copy_to(*device_, batch.weights));
    NIB_TRY(batch.ids_there, device_->allocate(batch.ids.size() * sizeof(std::int32_t)));
    NIB_TRY_STATUS(device_->upload(batch.ids_there.data(), batch.ids.data(), batch.ids_there.bytes()));
    NIB_TRY(batch.y_there, device_->allocate(static_cast<std::size_t>(tokens) *
                                             static_cast<std::size_t>(shape_.hidden) * sizeof(float)));
    return batch;
  }

  Status run_call(const Batch& batch, std::int32_t call) {
    const std::int64_t first = std::int64_t{call} * batch.tokens;
    const float* const x = batch.x_there.f32() + first * shape_.hidden;
    if (gate_) return layer(call).forward_add(batch.tokens, x, batch.y_there.f32());
    return layer(call).forward_add(batch.tokens, x, batch.ids_there.i32() + first * shape_.topk,
                                   batch.weights_there.f32() + first * shape_.topk, batch.y_there.f32());
  }

  Status run_round(const Batch& batch) {
    for (std::int32_t call = 0; call < batch.num_calls; ++call) NIB_TRY_STATUS(run_call(batch, call));
    return {};
  }

  // What the gates choose for the batch.
  Status fetch_choices(Batch& batch) {
    for (std::int32_t call = 0; call < batch.num_calls; ++call) {
      const std::int64_t first = std::int64_t{call} * batch.tokens;
      NIB_TRY_STATUS(layer(call).route(batch.tokens, batch.x_there.f32() + first * shape_.hidden,
                                       batch.ids_there.i32() + first * shape_.topk,
                                       batch.weights_there.f32() + first * shape_.topk));
    }
    NIB_TRY_STATUS(device_->download(batch.ids.data(), batch.ids_there.data(), batch.ids_there.bytes()));
    return device_->download(batch.weights.data(), batch.weights_there.data(), batch.weights_there.bytes());
  }

  [[nodiscard]] double experts_hit(const Batch& batch) const {
    const std::size_t per_call = batch.ids.size() / static_cast<std::size_t>(batch.num_calls);
    std::size_t hit = 0;
    for (auto call = batch.ids.begin(); call != batch.ids.end();
         call += static_cast<std::ptrdiff_t>(per_call)) {
      hit += std::set<std::int32_t>(call, call + static_cast<std::ptrdiff_t>(per_call)).size();
    }
    return static_cast<double>(hit) / batch.num_calls;
  }

  // The first call's outputs of its first and last tokens, against the definition.
  Result<double> compare(const Batch& batch) {
    const auto width = static_cast<std::size_t>(shape_.hidden);
    const auto topk = static_cast<std::size_t>(shape_.topk);
    const std::vector<float> zeros(static_cast<std::size_t>(batch.tokens) * width, 0.0F);
    NIB_TRY_STATUS(device_->upload(batch.y_there.data(), zeros.data(), batch.y_there.bytes()));
    NIB_TRY_STATUS(run_call(batch, 0));
    NIB_TRY(const std::vector<float> y, copy_from(*device_, batch.y_there.f32(), zeros.size()));
    double worst = 0;
    for (std::int32_t i = 0; i < std::min(kCheckedTokens, batch.tokens); ++i) {
      const auto token = static_cast<std::size_t>(i == 0 ? 0 : batch.tokens - i);
      NIB_TRY(const std::vector<double> want,
              layer(0).reference(std::span(batch.x).subspan(token * width, width),
                                 std::span(batch.ids).subspan(token * topk, topk),
                                 std::span(batch.weights).subspan(token * topk, topk)));
      worst = std::max(worst, row_error(std::span(y).subspan(token * width, width), want, width));
      if (interrupted()) return interrupted_error();
    }
    return worst;
  }

  [[nodiscard]] std::string title() const {
    return fmt::format("{} experts of {} x {}, top {}, {}{}, {} layers in turn", shape_.experts,
                       shape_.hidden, shape_.intermediate, shape_.topk, scheme_,
                       gate_ ? ", with the gate" : "", modules_.size());
  }

  [[nodiscard]] std::string as_text(const ModuleStamp& stamp, const std::vector<Row>& rows) const {
    std::vector<Column> columns{{"tokens", true}, {"experts hit", true}};
    std::ranges::copy(timing_columns(), std::back_inserter(columns));
    Table table(columns);
    for (const Row& row : rows) {
      std::vector<std::string> cells{std::to_string(row.tokens), fmt::format("{:.1f}", row.experts_hit)};
      std::ranges::copy(timing_cells(row.timing, limits_), std::back_inserter(cells));
      table.add(cells);
    }
    return fmt::format(
        "{}\n\n{}\n{}error: largest difference from the float64 reference in units of the row's rms, bound "
        "{}\n",
        title(), table.markdown(), describe(stamp, "bench moe", limits_), error_bound(scheme_));
  }

  [[nodiscard]] std::string as_json(const ModuleStamp& stamp, const std::vector<Row>& rows) const {
    JsonWriter json;
    json.begin_object();
    write_stamp(json, stamp);
    json.field("hidden", shape_.hidden)
        .field("intermediate", shape_.intermediate)
        .field("experts", shape_.experts);
    json.field("topk", shape_.topk)
        .field("scheme", scheme_)
        .field("gate", gate_)
        .field("layers", modules_.size());
    json.field("repetitions", turns_.repetitions).field("error_bound", error_bound(scheme_));
    write_limits(json, limits_);
    json.key("results").begin_array();
    for (const Row& row : rows) {
      json.begin_object().field("tokens", row.tokens).field("experts_hit", row.experts_hit);
      write_timing(json, row.timing, limits_);
      json.end_object();
    }
    return json.end_array().end_object().text() + "\n";
  }

  TurnOptions turns_;
  std::filesystem::path config_;
  Shape shape_;
  std::string scheme_ = "mxfp4";
  bool gate_ = false;

  std::shared_ptr<ModuleDevice> device_;
  Limits limits_;
  std::vector<std::unique_ptr<MoeModule>> modules_;
};

}  // namespace

std::unique_ptr<Command> make_bench_moe() { return std::make_unique<BenchMoeCommand>(); }

}  // namespace nibble::cli
