// nibble quantize: a checkpoint into another number format.

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <filesystem>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/quantize.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxShardMib = 1 << 20;

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
    options.add_text("--format", quantize_.format, "FORMAT",
                     "Of the projections: mxfp4, nvfp4, fp8, int8, int4, bf16, f16, f32; auto: as stored");
    options.add_text("--attn", quantize_.attn, "FORMAT", "Of attention, in place of --format");
    options.add_text("--mlp", quantize_.mlp, "FORMAT", "Of dense and shared MLPs");
    options.add_text("--experts", quantize_.experts, "FORMAT", "Of routed experts");
    options.add_text("--other", quantize_.other, "FORMAT", "Of embedding and head; as stored if not given");
    options.add_repeatable("--exclude", quantize_.exclude, "MODULE",
                           "Module or glob that stays as stored; may be given several times");
    options.add_choice("--scales", scales_, {"searched", "plain"},
                       "Scales of least squared error, or the format's rule (faster)");
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    if (quantize_.source.empty()) return bad_input("no checkpoint given (SRC); name a directory");
    if (quantize_.destination.empty())
      return bad_input("no destination given (DST); name a directory to write");
    if (common_.device == "cuda") {
      return unsupported("quantize computes on the CPU (--device cuda); leave --device out");
    }
    quantize_.search_scales = scales_ == "searched";
    quantize_.num_threads = common_.threads;
    quantize_.max_shard_bytes = static_cast<std::uint64_t>(shard_mib_) << 20;
    const auto start = std::chrono::steady_clock::now();
    NIB_TRY(const QuantizeReport report, quantize());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return common_.json ? print_json(report, seconds) : print_text(report, seconds);
  }

 private:
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
        fmt::format("{:.1f} s, {:.0f} MB/s of source, peak memory {}\n", seconds,
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
  std::int32_t shard_mib_ = 5 << 10;
};

}  // namespace

std::unique_ptr<Command> make_quantize() { return std::make_unique<QuantizeCommand>(); }

}  // namespace nibble::cli
