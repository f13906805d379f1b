// nibble quantize: a checkpoint into another number format.

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/quantize.h"
#include "nibble/tokenizer.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxShardMib = 1 << 20;
constexpr std::int32_t kMaxCalibrationTokens = 1 << 26;
constexpr std::size_t kMaxCalibrationBytes = std::size_t{256} << 20;
constexpr std::int32_t kMaxGroup = 1 << 20;

std::uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

class QuantizeCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Checkpoints");
    options.add_positional("SRC,--source", quantize_.source, "Checkpoint directory to read");
    options.add_positional("DST,--destination", quantize_.destination, "Directory to write; created");
    options.add_flag(
        "--overwrite", quantize_.overwrite,
        "Replace the checkpoint in DST instead of refusing it or going on with an interrupted run");
    options.add_integer("--max-shard-size", shard_mib_, 1, kMaxShardMib, "MiB of tensors of a weight file");
    options.heading("Formats");
    options.add_text(
        "--format", quantize_.format, "FORMAT",
        "Of the projections: mxfp4, nvfp4, fp8, int8, int4, gptq, bf16, f16, f32; auto: as stored");
    options.add_text("--attn", quantize_.attn, "FORMAT", "Of attention, in place of --format");
    options.add_text("--mlp", quantize_.mlp, "FORMAT", "Of dense and shared MLPs");
    options.add_text("--experts", quantize_.experts, "FORMAT", "Of routed experts");
    options.add_text("--other", quantize_.other, "FORMAT", "Of embedding and head; as stored if not given");
    options.add_repeatable("--exclude", quantize_.exclude, "MODULE",
                           "Module or glob that stays as stored; may be given several times");
    options.add_choice("--scales", scales_, {"searched", "plain"},
                       "Scales of least squared error, or the format's rule (faster)");
    GptqSettings& gptq = quantize_.gptq;
    options.heading("Format gptq");
    options.add_path("--calibration", calibration_, "Text file to run through the model; UTF-8");
    options.add_integer("--calibration-tokens", calibration_tokens_, 1, kMaxCalibrationTokens,
                        "Tokens of it, from its start");
    options.add_integer("--calibration-window", gptq.window, 1, kMaxCalibrationTokens,
                        "Tokens that see each other; the model's positions if they are fewer");
    options.add_choice("--bits", bits_, {"4", "8"}, "Of a code");
    options.add_integer("--group-size", group_size_, -1, kMaxGroup,
                        "Inputs that share a scale: a multiple of 32; -1 for one scale per row");
    options.add_flag("--act-order", gptq.act_order, "Inputs that matter most first (desc_act)");
    options.add_flag("--zero-points", gptq.zero_points, "Asymmetric groups");
    options.add_number("--damp", damp_, 1e-6F, 1.0F,
                       "Part of the Hessian's mean diagonal that is added to it");
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    if (quantize_.source.empty()) return bad_input("no checkpoint given (SRC); name a directory");
    if (quantize_.destination.empty())
      return bad_input("no destination given (DST); name a directory to write");
    if (common_.device == "cuda") {
      return unsupported("quantize computes on the CPU (--device cuda); leave --device out");
    }
    NIB_TRY_STATUS(read_gptq());
    quantize_.search_scales = scales_ == "searched";
    quantize_.num_threads = common_.threads;
    quantize_.max_shard_bytes = static_cast<std::uint64_t>(shard_mib_) << 20;
    const auto start = std::chrono::steady_clock::now();
    NIB_TRY(const QuantizeReport report, quantize());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return common_.json ? print_json(report, seconds) : print_text(report, seconds);
  }

 private:
  // The library takes tokens: text is a matter of the source's tokenizer.
  Status read_gptq() {
    GptqSettings& gptq = quantize_.gptq;
    gptq.bits = bits_ == "8" ? 8 : 4;
    gptq.group_size = group_size_;
    gptq.damp_percent = std::round(static_cast<double>(damp_) * 1e6) / 1e6;  // as it was written
    if (calibration_.empty()) return {};
    NIB_TRY(const std::string text, read_file(calibration_, kMaxCalibrationBytes));
    NIB_TRY(const Tokenizer tokenizer, Tokenizer::load(quantize_.source));
    auto tokens = tokenizer.encode(text);
    if (!tokens.ok()) return std::move(tokens).error().with_context(printable(calibration_.native()));
    gptq.calibration = std::move(tokens).value();
    if (gptq.calibration.empty())
      return bad_input(printable(calibration_.native()) + ": no text to calibrate with");
    const auto wanted = static_cast<std::size_t>(calibration_tokens_);
    if (gptq.calibration.size() > wanted) gptq.calibration.resize(wanted);
    return {};
  }

  Result<QuantizeReport> quantize() const {
    const InterruptScope scope(nullptr);
    Progress progress(common_.progress);
    return quantize_checkpoint(quantize_, progress.callback());
  }

  Status print_text(const QuantizeReport& report, double seconds) const {
    std::string text =
        fmt::format("{}: {} of {} tensors in another format, {} from {}, relative error {:.4f}\n",
                    printable(quantize_.destination.native()), report.num_quantized, report.tensors.size(),
                    format_bytes(report.bytes), format_bytes(report.source_bytes), report.relative_rms_error);
    if (report.resumed_shards > 0) {
      text += fmt::format("{} of {} shards were finished by an interrupted run\n", report.resumed_shards,
                          report.files.size());
    }
    text +=
        fmt::format("{:.1f} s, {:.1f} MB/s of source, peak memory {}\n", seconds,
                    static_cast<double>(report.source_bytes) / 1e6 / seconds, format_bytes(peak_memory()));
    for (const std::string& note : report.notes) text += fmt::format("note: {}\n", printable(note));
    return print(text);
  }

  static Status print_json(const QuantizeReport& report, double seconds) {
    JsonWriter json;
    json.begin_object().field("files", report.files).field("num_tensors", report.tensors.size());
    json.field("num_quantized", report.num_quantized).field("source_bytes", report.source_bytes);
    json.field("bytes", report.bytes).field("relative_rms_error", report.relative_rms_error);
    json.field("resumed_shards", report.resumed_shards).field("seconds", seconds);
    json.field("peak_rss_bytes", peak_memory()).field("notes", report.notes);
    return print_line(json.end_object().text());
  }

  QuantizeOptions quantize_;
  CommonOptions common_;
  std::string scales_ = "searched";
  std::filesystem::path calibration_;
  std::int32_t calibration_tokens_ = 1 << 16;
  std::int32_t group_size_ = 128;
  std::string bits_ = "4";
  float damp_ = 0.01F;
  std::int32_t shard_mib_ = 5 << 10;
};

}  // namespace

std::unique_ptr<Command> make_quantize() { return std::make_unique<QuantizeCommand>(); }

}  // namespace nibble::cli
