// nibble eval table: every scheme a model can be quantised to while loading, in one table.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_measure.h"
#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/eval_text.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/scheme_variant.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "nibble/checkpoint.h"
#include "nibble/evaluation.h"

namespace nibble::cli {

namespace {

// A table of every scheme then takes minutes on two cores for a model of 10 M parameters.
constexpr std::int32_t kDefaultTokens = 32768;
constexpr std::int32_t kDecodeTokens = 64;
constexpr std::int32_t kDecodeRepetitions = 10;

struct Sizes {
  std::uint64_t projection_bytes = 0;
  std::int64_t projection_parameters = 0;
  std::uint64_t model_bytes = 0;
  std::int64_t model_parameters = 0;

  [[nodiscard]] double projection_bits() const { return bits(projection_bytes, projection_parameters); }
  [[nodiscard]] double model_bits() const { return bits(model_bytes, model_parameters); }

 private:
  static double bits(std::uint64_t bytes, std::int64_t parameters) {
    return parameters > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters) : 0;
  }
};

// Of several runs. The best is what the table shows: whatever else runs on the machine only ever takes speed
// away, and takes it from some schemes and not from others.
struct DecodeSpeed {
  double best = 0;  // tokens per second
  Spread all;
};

struct Measured {
  std::string formats;
  Sizes sizes;
  Divergence divergence;
  DecodeSpeed decode;
};

struct Row {
  SchemeVariant variant;
  std::optional<Measured> measured;
  std::string error;  // why there is nothing measured

  [[nodiscard]] double delta_percent() const {
    return 100 * (measured->divergence.perplexity / measured->divergence.reference_perplexity - 1);
  }
};

// "+1.20", and "0.00" whatever the sign of a rounding error.
std::string signed_percent(double percent) {
  return std::abs(percent) < 0.005 ? "0.00" : fmt::format("{:+.2f}", percent);
}

// A file that is gone when this goes.
class TemporaryFile {
 public:
  TemporaryFile()
      : path_(std::filesystem::temp_directory_path() / fmt::format("nibble-reference-{}.kld", ::getpid())) {}
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Weight matrices of attention, MLPs and experts; their norms and biases are float32 vectors.
Sizes sizes_of(const MemoryPlan& plan) {
  Sizes sizes;
  for (const PlanRow& row : plan.weights) {
    sizes.model_bytes += row.packed_bytes;
    sizes.model_parameters += row.num_parameters;
    if (row.kind == "other") continue;
    sizes.projection_bytes += row.packed_bytes;
    sizes.projection_parameters += row.num_parameters;
  }
  return sizes;
}

class EvalTableCommand final : public Command {
 public:
  EvalTableCommand() { text_.num_tokens = kDefaultTokens; }

  void define(OptionSet& options) override {
    add_model_options(options, model_);
    add_text_options(options, text_, "UTF-8 text (- for standard input); MODEL/valid.txt if not given");
    options.heading("Table");
    options.add_text(
        "--schemes", schemes_, "SCHEME,SCHEME,...",
        "Rows: SCHEME[:plain][:attn=S][:mlp=S][:experts=S][:other=S][:kv=DTYPE]; all schemes if not "
        "given");
    options.add_choice("--output,-o", output_, {"md", "json"}, "Form of the result");
    add_common_options(options, common_, "The same as -o json");
  }

  Status run() override {
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    std::vector<SchemeVariant> variants;
    if (!schemes_.empty()) {
      NIB_TRY(variants, parse_scheme_variants(schemes_));
    }
    NIB_TRY(const std::string text, read_default_text(llm_options));
    const TemporaryFile file;
    NIB_TRY(const BenchStamp stamp, make_reference(llm_options, text, file.path()));
    if (variants.empty()) variants = default_scheme_variants(llm_options);
    for (std::size_t i = 0; i < variants.size(); ++i) {
      label_ = fmt::format("{}/{} {}", i + 1, variants.size(), variants[i].name());
      auto measured = measure(variants[i].apply(llm_options), text, file.path());
      if (interrupted()) return interrupted_error();
      Row& row = rows_.emplace_back();
      row.variant = variants[i];
      if (measured.ok()) {
        row.measured = std::move(measured).value();
      } else {
        row.error = measured.error().message;
      }
    }
    return print(common_.json || output_ == "json" ? as_json(stamp) : as_markdown(stamp));
  }

 private:
  Result<std::string> read_default_text(const LlmOptions& options) {
    std::error_code ignored;
    const std::filesystem::path usual = options.model / "valid.txt";
    if (text_.file.empty() && std::filesystem::is_regular_file(usual, ignored)) text_.file = usual;
    return read_text(text_);
  }

  // Runs the model as it is stored and keeps its predictions.
  Result<BenchStamp> make_reference(const LlmOptions& options, const std::string& text,
                                    const std::filesystem::path& file) {
    label_ = "reference";
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(options, common_));
    const InterruptScope scope(llm.get());
    Progress progress(common_.progress);
    auto saved = save_reference(*llm, text, text_.windows(), file, labelled(progress));
    progress.clear();
    if (interrupted()) return interrupted_error();
    if (!saved.ok()) return std::move(saved).error();
    reference_ = *saved;
    max_model_len_ = llm->info().max_model_len;
    return make_stamp(*llm, options, arguments());
  }

  Result<Measured> measure(LlmOptions options, const std::string& text, const std::filesystem::path& file) {
    options.max_model_len = max_model_len_;
    Measured result;
    NIB_TRY(const MemoryPlan plan, plan_model(options));
    result.sizes = sizes_of(plan);
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(options, common_));
    result.formats = llm->info().formats;
    const InterruptScope scope(llm.get());
    Progress progress(common_.progress);
    NIB_TRY(result.divergence, kl_divergence(*llm, file, text, text_.windows(), labelled(progress)));
    NIB_TRY(result.decode, decode_speed(*llm, labelled(progress)));
    return result;
  }

  [[nodiscard]] std::int32_t decode_tokens() const {
    return std::clamp(max_model_len_ - 2, 0, kDecodeTokens);
  }

  // Of one sequence, from an empty context.
  Result<DecodeSpeed> decode_speed(Llm& llm, const ProgressCallback& progress) const {
    const BenchTest test{BenchKind::decode, decode_tokens()};
    if (test.tokens < 1) return DecodeSpeed{};
    const BenchPlan plan{
        .tests = {test}, .repetitions = kDecodeRepetitions, .measure = [] { return MachineLimits{}; }};
    NIB_TRY(const std::vector<BenchResult> results, run_bench(llm, plan, progress));
    const std::vector<double> rates = results.front().tokens_per_second();
    return DecodeSpeed{*std::max_element(rates.begin(), rates.end()), spread(rates)};
  }

  [[nodiscard]] ProgressCallback labelled(Progress& progress) const {
    return [show = progress.callback(), label = label_](std::string_view, std::uint64_t done,
                                                        std::uint64_t total, std::string_view unit) {
      return show(fmt::format("{} ({})", label, unit), done, total, unit);
    };
  }

  [[nodiscard]] std::string as_markdown(const BenchStamp& stamp) const {
    Table table({{"scheme"},
                 {"bits/weight", true},
                 {"whole model", true},
                 {"packed", true},
                 {"perplexity", true},
                 {"Δ %", true},
                 {"KLD", true},
                 {"top-1 %", true},
                 {"decode t/s", true}});
    std::string failures;
    for (const Row& row : rows_) {
      if (!row.measured) {
        table.add({row.variant.name(), "–", "–", "–", "–", "–", "–", "–", "–"});
        failures += fmt::format("\n{}: not run: {}\n", row.variant.name(), printable(row.error));
        continue;
      }
      const auto& [formats, sizes, divergence, decode] = *row.measured;
      table.add({row.variant.name(), fmt::format("{:.2f}", sizes.projection_bits()),
                 fmt::format("{:.2f}", sizes.model_bits()), format_bytes(sizes.model_bytes),
                 fmt::format("{:.4f}", divergence.perplexity), signed_percent(row.delta_percent()),
                 fmt::format("{:.6f}", divergence.mean),
                 fmt::format("{:.2f}", 100 * divergence.top1_agreement), fmt::format("{:.0f}", decode.best)});
    }
    std::string text =
        fmt::format("{}{}\nReference: {}, perplexity {:.4f} over {} tokens of {} in windows of {}. ",
                    table.markdown(), failures, describe_model(stamp), reference_.perplexity,
                    reference_.tokens, text_.file.filename().string(), reference_.window);
    text += fmt::format("Decoding: one sequence, the best of {} runs of {} tokens. ", kDecodeRepetitions,
                        decode_tokens());
    return text + fmt::format("{}, {} threads, nibble {} {}.\n", stamp.system.cpu, stamp.threads,
                              stamp.version.version, stamp.version.commit);
  }

  [[nodiscard]] std::string as_json(const BenchStamp& stamp) const {
    JsonWriter json;
    json.begin_object();
    write_stamp(json, stamp);
    json.field("text", text_.file.string())
        .field("tokens", reference_.tokens)
        .field("window", reference_.window);
    json.field("stride", reference_.stride).field("bos", text_.prepend_bos);
    json.field("reference_perplexity", reference_.perplexity).field("reference_nll", reference_.nll);
    json.key("rows").begin_array();
    for (const Row& row : rows_) write_row(json, row);
    return json.end_array().end_object().text() + '\n';
  }

  static void write_row(JsonWriter& json, const Row& row) {
    json.begin_object().field("scheme", row.variant.name());
    if (!row.measured) {
      json.field("error", row.error).end_object();
      return;
    }
    const auto& [formats, sizes, divergence, decode] = *row.measured;
    json.field("formats", formats).field("bits_per_weight", sizes.projection_bits());
    json.field("model_bits_per_weight", sizes.model_bits()).field("packed_bytes", sizes.model_bytes);
    json.field("projection_bytes", sizes.projection_bytes);
    json.field("perplexity", divergence.perplexity).field("nll", divergence.nll);
    json.field("delta_percent", row.delta_percent()).key("kld").begin_object();
    json.field("mean", divergence.mean).field("median", divergence.median).field("p99", divergence.p99);
    json.field("max", divergence.max).end_object().field("top1_agreement", divergence.top1_agreement);
    json.field("decode_tok_s", decode.best).field("decode_tok_s_mean", decode.all.mean);
    json.field("decode_tok_s_sd", decode.all.sd).end_object();
  }

  ModelOptions model_;
  CommonOptions common_;
  TextOptions text_;
  std::string schemes_;
  std::string output_ = "md";
  std::string label_;  // of progress
  SavedReference reference_;
  std::int32_t max_model_len_ = 0;
  std::vector<Row> rows_;
};

}  // namespace

std::unique_ptr<Command> make_eval_table() { return std::make_unique<EvalTableCommand>(); }

}  // namespace nibble::cli
