// nibble inspect: what a checkpoint directory holds, from its headers.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "nibble/checkpoint.h"

namespace nibble::cli {

namespace {

class InspectCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Model");
    options.add_positional("MODEL,-m,--model", model_, "Checkpoint directory");
    options.add_flag("--tensors", tensors_, "List every tensor (--json always does)");
    options.add_flag("--sha256", sha256_, "Read the weight files and print their SHA-256");
    add_common_options(options, common_, "Print one JSON object", false);
  }

  Status run() override {
    NIB_TRY_STATUS(require_model(model_));
    NIB_TRY(const CheckpointSummary summary, inspect_checkpoint(model_));
    std::vector<FileDigest> digests;
    if (sha256_) {
      NIB_TRY(digests, digest());
    }
    return common_.json ? print_json(summary, digests) : print_text(summary, digests);
  }

 private:
  Result<std::vector<FileDigest>> digest() const {
    const InterruptScope scope(nullptr);
    Progress progress(common_.progress);
    auto digests = digest_checkpoint(model_, progress.callback());
    progress.clear();
    if (interrupted()) return interrupted_error();
    return digests;
  }

  Status print_text(const CheckpointSummary& summary, const std::vector<FileDigest>& digests) const {
    std::string text = fmt::format(
        "{}: {}, {} layers, {:.2f} M parameters, {} in {} tensors, quantization {}\n\n", summary.architecture,
        summary.model_type, summary.num_layers, static_cast<double>(summary.num_parameters) / 1e6,
        format_bytes(summary.bytes), summary.tensors.size(), summary.quantization);
    Table formats({{"format"}, {"tensors", true}, {"parameters", true}, {"bytes", true}});
    for (const FormatSummary& f : summary.formats) {
      formats.add({f.format, std::to_string(f.num_tensors), std::to_string(f.num_parameters),
                   std::to_string(f.bytes)});
    }
    text += formats.plain();
    if (tensors_) text += '\n' + tensor_table(summary).plain();
    if (sha256_) text += '\n' + digest_table(digests).plain();
    for (const std::string& note : summary.notes) text += fmt::format("\nnote: {}", printable(note));
    if (!summary.notes.empty()) text += '\n';
    return print(text);
  }

  static Table tensor_table(const CheckpointSummary& summary) {
    Table table({{"tensor"}, {"dtype"}, {"shape"}, {"bytes", true}, {"file"}});
    for (const TensorSummary& t : summary.tensors) {
      table.add({printable(t.name), t.dtype, fmt::format("[{}]", fmt::join(t.shape, ", ")),
                 std::to_string(t.bytes), t.file});
    }
    return table;
  }

  static Table digest_table(const std::vector<FileDigest>& digests) {
    Table table({{"sha256"}, {"bytes", true}, {"file"}});
    for (const FileDigest& d : digests) table.add({d.sha256, std::to_string(d.bytes), d.file});
    return table;
  }

  Status print_json(const CheckpointSummary& summary, const std::vector<FileDigest>& digests) const {
    JsonWriter json;
    json.begin_object().field("model_type", summary.model_type).field("architecture", summary.architecture);
    json.field("quantization", summary.quantization).field("num_layers", summary.num_layers);
    json.field("num_parameters", summary.num_parameters).field("bytes", summary.bytes);
    json.key("formats").begin_array();
    for (const FormatSummary& f : summary.formats) {
      json.begin_object().field("format", f.format).field("num_tensors", f.num_tensors);
      json.field("num_parameters", f.num_parameters).field("bytes", f.bytes).end_object();
    }
    json.end_array().field("num_tensors", summary.tensors.size()).key("tensors").begin_array();
    for (const TensorSummary& t : summary.tensors) {
      json.begin_object().field("name", t.name).field("dtype", t.dtype).field("shape", t.shape);
      json.field("bytes", t.bytes).field("file", t.file).end_object();
    }
    json.end_array().field("notes", summary.notes);
    if (sha256_) add_digests(json, digests);
    return print_line(json.end_object().text());
  }

  static void add_digests(JsonWriter& json, const std::vector<FileDigest>& digests) {
    json.key("files").begin_array();
    for (const FileDigest& d : digests) {
      json.begin_object()
          .field("file", d.file)
          .field("bytes", d.bytes)
          .field("sha256", d.sha256)
          .end_object();
    }
    json.end_array();
  }

  std::filesystem::path model_;
  bool tensors_ = false;
  bool sha256_ = false;
  CommonOptions common_;
};

}  // namespace

std::unique_ptr<Command> make_inspect() { return std::make_unique<InspectCommand>(); }

}  // namespace nibble::cli
