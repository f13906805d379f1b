// bench mla --challenge: a DeepSeek-R1 attention layer on 4 prompts and 16 decoding requests, one request at
// a time and all in one batch.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <utility>

#include "cli/bench_mla.h"
#include "cli/files.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/table.h"

namespace nibble::cli {

namespace {

using Clock = std::chrono::steady_clock;

struct Prompt {
  std::int32_t past;
  std::int32_t tokens;
};
constexpr std::array<Prompt, 4> kPrompts{{{512, 64}, {0, 128}, {0, 256}, {256, 256}}};
constexpr std::int32_t kDecodes = 16;
constexpr std::int32_t kFirstPast = 50;
constexpr std::int32_t kLastPast = 400;
// Rounds whose outputs are compared with the reference, and sequences of them.
constexpr std::int32_t kCheckedRounds = 3;
constexpr std::array<std::size_t, 2> kCheckedDecodes{0, kDecodes - 1};
constexpr std::array<std::size_t, 2> kCheckedPrompts{0, 2};
constexpr std::int32_t kCheckedRows = 2;  // the last of a prompt

std::int32_t past_of(std::int32_t i) { return kFirstPast + i * (kLastPast - kFirstPast) / (kDecodes - 1); }

struct Timing {
  const char* what;
  double seconds = 0;  // decode: of a round of all 16; prefill: of all 4 prompts
  double tokens = 0;   // of that
  Work work;
};

struct SchemeResult {
  std::string scheme;
  std::size_t weight_bytes = 0;
  std::vector<Timing> timings;
  double error = 0;
};

struct Request {
  SequenceId id = 0;
  std::int32_t past = 0;      // tokens in the cache before a run
  std::vector<float> inputs;  // of the past
};

class Challenge {
 public:
  Challenge(std::shared_ptr<ModuleDevice> device, const MlaBenchOptions& options, std::int32_t rounds)
      : device_(std::move(device)), options_(options), rounds_(rounds) {}

  Result<SchemeResult> run(const std::string& scheme) {
    NIB_TRY_STATUS(make_module(scheme));
    NIB_TRY_STATUS(make_requests());
    SchemeResult result{.scheme = scheme, .weight_bytes = module_->weight_bytes()};
    NIB_TRY(const double prompt_error, check_prompts());
    NIB_TRY(const double decode_error, check_decodes());
    result.error = std::max(prompt_error, decode_error);
    NIB_TRY(const double turns, time_decode([&] { return decode_in_turn(); }));
    result.timings.push_back({"decode, in turn", turns, kDecodes, decode_work(scheme, 1)});
    NIB_TRY(const double batch, time_decode([&] { return decode_in_batch(); }));
    result.timings.push_back({"decode, one batch", batch, kDecodes, decode_work(scheme, kDecodes)});
    NIB_TRY(const double prompts,
            median_seconds(*device_, options_.repetitions, [&] { return prefill_in_turn(); }));
    result.timings.push_back(
        {"prefill, in turn", prompts, static_cast<double>(prompt_tokens()), prefill_work(scheme, true)});
    NIB_TRY(const double whole,
            median_seconds(*device_, options_.repetitions, [&] { return prefill_in_batch(); }));
    result.timings.push_back(
        {"prefill, one batch", whole, static_cast<double>(prompt_tokens()), prefill_work(scheme, false)});
    module_.reset();
    return result;
  }

 private:
  [[nodiscard]] std::size_t hidden() const { return static_cast<std::size_t>(options_.shape.hidden_size); }
  static std::int32_t prompt_tokens() {
    std::int32_t sum = 0;
    for (const Prompt& prompt : kPrompts) sum += prompt.tokens;
    return sum;
  }

  Status make_module(const std::string& scheme) {
    MlaModuleConfig config = options_.shape;
    config.scheme = scheme;
    config.cache_dtype = "bf16";
    config.max_sequences = kDecodes + static_cast<std::int32_t>(kPrompts.size());
    config.max_length = std::max(kLastPast + std::max(rounds_, kCheckedRounds), 576);
    config.max_tokens = prompt_tokens();
    NIB_TRY(module_, MlaModule::create_dummy(device_, config, 1));
    NIB_TRY(x_, copy_to(*device_, random_normal(static_cast<std::size_t>(prompt_tokens()) * hidden(), 1)));
    NIB_TRY(y_, device_->allocate(x_.bytes()));
    return {};
  }

  // Sequences with their pasts in the cache.
  Status make_requests() {
    prompts_.clear();
    decodes_.clear();
    std::uint64_t seed = 100;
    for (const Prompt& prompt : kPrompts) NIB_TRY_STATUS(add_request(prompts_, prompt.past, seed++));
    for (std::int32_t i = 0; i < kDecodes; ++i) NIB_TRY_STATUS(add_request(decodes_, past_of(i), seed++));
    return {};
  }

  Status add_request(std::vector<Request>& requests, std::int32_t past, std::uint64_t seed) {
    Request request{.past = past, .inputs = random_normal(static_cast<std::size_t>(past) * hidden(), seed)};
    NIB_TRY(request.id, module_->add_sequence());
    if (past > 0) {
      std::vector<float> outputs(request.inputs.size());
      const MlaChunk chunk{request.id, past};
      NIB_TRY_STATUS(module_->forward_host({&chunk, 1}, request.inputs, outputs));
    }
    requests.push_back(std::move(request));
    return interrupted() ? Status(interrupted_error()) : Status();
  }

  Status rewind(const std::vector<Request>& requests) {
    for (const Request& request : requests) NIB_TRY_STATUS(module_->truncate(request.id, request.past));
    return {};
  }

  static std::vector<MlaChunk> decode_chunks(const std::vector<Request>& requests) {
    std::vector<MlaChunk> chunks;
    for (const Request& request : requests) chunks.push_back({request.id, 1});
    return chunks;
  }

  Status decode_in_batch() {
    const std::vector<MlaChunk> chunks = decode_chunks(decodes_);
    for (std::int32_t round = 0; round < rounds_; ++round) {
      NIB_TRY_STATUS(module_->forward(chunks, x_.f32(), x_.f32()));
      if (interrupted()) return interrupted_error();
    }
    return rewind(decodes_);
  }

  Status decode_in_turn() {
    for (std::size_t i = 0; i < decodes_.size(); ++i) {
      const MlaChunk chunk{decodes_[i].id, 1};
      float* const row = x_.f32() + i * hidden();
      for (std::int32_t round = 0; round < rounds_; ++round) {
        NIB_TRY_STATUS(module_->forward({&chunk, 1}, row, row));
        if (interrupted()) return interrupted_error();
      }
    }
    return rewind(decodes_);
  }

  // Seconds of one round, median of several runs of all rounds after two that warm up.
  Result<double> time_decode(const std::function<Status()>& all_rounds) {
    std::vector<double> samples;
    for (std::int32_t run = 0; run < options_.repetitions + 2; ++run) {
      NIB_TRY_STATUS(device_->synchronize());
      const auto start = Clock::now();
      NIB_TRY_STATUS(all_rounds());
      NIB_TRY_STATUS(device_->synchronize());
      if (run >= 2) samples.push_back(std::chrono::duration<double>(Clock::now() - start).count() / rounds_);
    }
    return median(std::move(samples));
  }

  static std::vector<MlaChunk> prompt_chunks(const std::vector<Request>& requests) {
    std::vector<MlaChunk> chunks;
    for (std::size_t i = 0; i < requests.size(); ++i) chunks.push_back({requests[i].id, kPrompts[i].tokens});
    return chunks;
  }

  Status prefill_in_batch() {
    NIB_TRY_STATUS(module_->forward(prompt_chunks(prompts_), x_.f32(), y_.f32()));
    return rewind(prompts_);
  }

  Status prefill_in_turn() {
    std::size_t row = 0;
    for (const MlaChunk& chunk : prompt_chunks(prompts_)) {
      NIB_TRY_STATUS(module_->forward({&chunk, 1}, x_.f32() + row * hidden(), y_.f32() + row * hidden()));
      row += static_cast<std::size_t>(chunk.num_tokens);
    }
    return rewind(prompts_);
  }

  // The last rows of some prompts of the batch.
  Result<double> check_prompts() {
    NIB_TRY(const std::vector<float> x, copy_from(*device_, x_.f32(), x_.bytes() / sizeof(float)));
    NIB_TRY_STATUS(module_->forward(prompt_chunks(prompts_), x_.f32(), y_.f32()));
    NIB_TRY(const std::vector<float> y, copy_from(*device_, y_.f32(), x.size()));
    NIB_TRY_STATUS(rewind(prompts_));
    double worst = 0;
    for (const std::size_t i : kCheckedPrompts) {
      std::size_t begin = 0;
      for (std::size_t j = 0; j < i; ++j) begin += static_cast<std::size_t>(kPrompts[j].tokens);
      const std::size_t end = begin + static_cast<std::size_t>(kPrompts[i].tokens);
      std::vector<float> all = prompts_[i].inputs;
      all.insert(all.end(), x.begin() + static_cast<std::ptrdiff_t>(begin * hidden()),
                 x.begin() + static_cast<std::ptrdiff_t>(end * hidden()));
      NIB_TRY(const std::vector<double> want, module_->reference(all, kCheckedRows));
      const std::size_t rows = kCheckedRows * hidden();
      worst = std::max(worst, row_error(std::span(y).subspan(end * hidden() - rows, rows), want, hidden()));
      if (interrupted()) return interrupted_error();
    }
    return worst;
  }

  // Some rounds of the batch, outputs fed back; the last outputs of some sequences.
  Result<double> check_decodes() {
    const std::vector<MlaChunk> chunks = decode_chunks(decodes_);
    std::vector<std::vector<float>> histories;
    for (const Request& request : decodes_) histories.push_back(request.inputs);
    const std::size_t values = kDecodes * hidden();
    std::vector<float> x;
    for (std::int32_t round = 0; round < kCheckedRounds; ++round) {
      NIB_TRY(x, copy_from(*device_, x_.f32(), values));
      for (std::size_t i = 0; i < histories.size(); ++i) {
        const auto row = x.begin() + static_cast<std::ptrdiff_t>(i * hidden());
        histories[i].insert(histories[i].end(), row, row + static_cast<std::ptrdiff_t>(hidden()));
      }
      NIB_TRY_STATUS(module_->forward(chunks, x_.f32(), x_.f32()));
    }
    NIB_TRY(x, copy_from(*device_, x_.f32(), values));
    NIB_TRY_STATUS(rewind(decodes_));
    double worst = 0;
    for (const std::size_t i : kCheckedDecodes) {
      NIB_TRY(const std::vector<double> want, module_->reference(histories[i], 1));
      worst = std::max(worst, row_error(std::span(x).subspan(i * hidden(), hidden()), want, hidden()));
      if (interrupted()) return interrupted_error();
    }
    return worst;
  }

  // Weights are read once for `batch` requests, cache entries once a round at their mean lengths.
  [[nodiscard]] Work decode_work(const std::string& scheme, std::int32_t batch) const {
    double cached = 0;
    double pairs = 0;
    for (std::int32_t i = 0; i < kDecodes; ++i) cached += past_of(i) + (rounds_ + 1) / 2.0;
    pairs = cached;
    const MlaModuleConfig& c = module_->config();
    const double steps = static_cast<double>(kDecodes) / batch;
    const double attention =
        2.0 * pairs * static_cast<double>(c.num_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim));
    return {.bytes = steps * static_cast<double>(module_->weight_bytes()) +
                     cached * static_cast<double>(module_->bytes_per_token()),
            .flops = 2.0 * kDecodes * (token_weights() + kv_b_weights()) + attention,
            .num_kernels = static_cast<int>(steps),
            .is_fp8 = scheme.ends_with("a8")};
  }

  // Projections of each token, keys and values of each position once, causal pairs.
  [[nodiscard]] Work prefill_work(const std::string& scheme, bool in_turn) const {
    const MlaModuleConfig& c = module_->config();
    double positions = 0;
    double pairs = 0;
    for (const Prompt& prompt : kPrompts) {
      positions += prompt.past + prompt.tokens;
      pairs += prompt.tokens * (static_cast<double>(prompt.past) + (prompt.tokens + 1) / 2.0);
    }
    const double per_pair =
        static_cast<double>(c.num_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim));
    const int steps = in_turn ? static_cast<int>(kPrompts.size()) : 1;
    return {
        .bytes = steps * static_cast<double>(module_->weight_bytes()),
        .flops = 2.0 * (prompt_tokens() * token_weights() + positions * kv_b_weights() + pairs * per_pair),
        .num_kernels = steps,
        .is_fp8 = scheme.ends_with("a8")};
  }

  // Weights that every token is multiplied with, without kv_b_proj.
  [[nodiscard]] double token_weights() const {
    const MlaModuleConfig& c = module_->config();
    const std::int64_t queries = c.num_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
    const std::int64_t q =
        c.q_lora_rank > 0 ? c.q_lora_rank * (c.hidden_size + queries) : c.hidden_size * queries;
    return static_cast<double>(q + (c.kv_lora_rank + c.qk_rope_head_dim) * c.hidden_size +
                               c.hidden_size * c.num_heads * c.v_head_dim);
  }
  [[nodiscard]] double kv_b_weights() const {
    const MlaModuleConfig& c = module_->config();
    return static_cast<double>(c.num_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank);
  }

  std::shared_ptr<ModuleDevice> device_;
  const MlaBenchOptions& options_;
  std::int32_t rounds_;
  std::unique_ptr<MlaModule> module_;
  std::vector<Request> prompts_;
  std::vector<Request> decodes_;
  DeviceArray x_;
  DeviceArray y_;
};

std::string as_text(const ModuleStamp& stamp, const MlaModuleConfig& shape,
                    const std::vector<SchemeResult>& results, std::int32_t rounds, const Limits& limits) {
  Table table({{"weights"},
               {"what"},
               {"ms", true},
               {"tok/s", true},
               {"floor ms", true},
               {"x floor", true},
               {"achieved", true},
               {"% of limit", true},
               {"error", true}});
  for (const SchemeResult& result : results) {
    for (const Timing& t : result.timings) {
      const double floor = floor_of(t.work, limits).seconds;
      table.add({result.scheme, t.what, fmt::format("{:.4f}", t.seconds * 1e3),
                 fmt::format("{:.0f}", t.tokens / t.seconds), fmt::format("{:.4f}", floor * 1e3),
                 fmt::format("{:.2f}", t.seconds / floor), achieved(t.work, t.seconds, limits),
                 fmt::format("{:.1f}", percent_of_limit(t.work, t.seconds, limits)),
                 fmt::format("{:.1e}", result.error)});
    }
  }
  return fmt::format(
      "one MLA layer, hidden {}, {} heads, bf16 cache; decode: ms of a round of {} requests, {} rounds; "
      "prefill: ms of 4 "
      "prompts, {} tokens\n\n{}\n{}error: largest difference from the float64 reference in units of the "
      "row's rms\n",
      shape.hidden_size, shape.num_heads, kDecodes, rounds,
      std::accumulate(kPrompts.begin(), kPrompts.end(), 0,
                      [](int sum, const Prompt& p) { return sum + p.tokens; }),
      table.markdown(), describe(stamp, "bench mla", limits));
}

std::string as_json(const ModuleStamp& stamp, const std::vector<SchemeResult>& results, std::int32_t rounds,
                    const Limits& limits) {
  JsonWriter json;
  json.begin_object();
  write_stamp(json, stamp);
  json.field("rounds", rounds);
  write_limits(json, limits);
  json.key("results").begin_array();
  for (const SchemeResult& result : results) {
    json.begin_object().field("scheme", result.scheme).field("weight_bytes", result.weight_bytes);
    json.field("error", result.error)
        .field("error_bound", error_bound(result.scheme))
        .key("timings")
        .begin_array();
    for (const Timing& t : result.timings) {
      const Floor floor = floor_of(t.work, limits);
      json.begin_object()
          .field("what", t.what)
          .field("ms", t.seconds * 1e3)
          .field("tok_s", t.tokens / t.seconds);
      json.field("bytes", t.work.bytes).field("flops", t.work.flops).field("floor_ms", floor.seconds * 1e3);
      json.field("floor_by", floor.by_compute ? "compute" : "bytes")
          .field("times_floor", t.seconds / floor.seconds);
      json.field("percent_of_limit", percent_of_limit(t.work, t.seconds, limits)).end_object();
    }
    json.end_array().end_object();
  }
  return json.end_array().end_object().text() + "\n";
}

}  // namespace

Status run_mla_challenge(const std::shared_ptr<ModuleDevice>& device, const CommonOptions& common,
                         const MlaBenchOptions& options, const std::vector<std::string>& schemes,
                         std::int32_t rounds, const ModuleStamp& stamp) {
  Limits limits{.on_gpu = device->kind() == DeviceKind::cuda};
  measure_now(*device, common, limits.before);
  std::vector<SchemeResult> results;
  {
    Progress progress(common.progress);
    Challenge challenge(device, options, rounds);
    for (const std::string& scheme : schemes) {
      progress.callback()("bench mla", results.size(), schemes.size(), "schemes");
      NIB_TRY(SchemeResult result, challenge.run(scheme));
      results.push_back(std::move(result));
    }
  }
  measure_now(*device, common, limits.after);
  NIB_TRY_STATUS(print(options.json ? as_json(stamp, results, rounds, limits)
                                    : as_text(stamp, options.shape, results, rounds, limits)));
  for (const SchemeResult& result : results)
    NIB_TRY_STATUS(check_errors(result.error, error_bound(result.scheme)));
  return {};
}

}  // namespace nibble::cli
