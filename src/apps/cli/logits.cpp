// nibble logits: row t of the written tensor = logits after token t.

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_input.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "nibble/llm.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();

// The eight bytes of length and the padded JSON header of a safetensors file with one tensor.
std::string safetensors_header(std::size_t rows, std::size_t columns, std::string_view model) {
  JsonWriter json;
  json.begin_object()
      .key("__metadata__")
      .begin_object()
      .field("format", "pt")
      .field("model", model)
      .end_object();
  json.key("logits")
      .begin_object()
      .field("dtype", "F32")
      .key("shape")
      .begin_array()
      .value(rows)
      .value(columns);
  json.end_array().key("data_offsets").begin_array().value(0).value(rows * columns * sizeof(float));
  json.end_array().end_object().end_object();
  std::string header = json.text();
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string size(8, '\0');
  for (std::size_t i = 0; i < size.size(); ++i) size[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return size + header;
}

class LogitsCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    options.heading("Sequence");
    options.add_path("--tokens", tokens_file_, "JSON list of token ids");
    options.add_path("--output,-o", output_, "Safetensors file to write: \"logits\", F32 [tokens, vocab]");
    options.add_integer("--prefill-chunk", prefill_chunk_, 1, kMaxInt,
                        "Feed in chunks of N through the cache");
    options.add_integer("--decode-from", decode_from_, 0, kMaxInt,
                        "Feed the tokens from index N on one by one");
    options.add_path("--batch-with", batch_with_,
                     "Run this sequence in the same batches; output of the first only");
    add_common_options(options, common_, "Print one JSON object about the file written");
  }

  Status run() override {
    if (tokens_file_.empty()) return bad_input("no tokens given (--tokens); name a JSON list of token ids");
    if (output_.empty()) return bad_input("no output given (--output); name a safetensors file to write");
    LogitsRequest request;
    NIB_TRY(LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(request.tokens, read_token_file(tokens_file_));
    if (!batch_with_.empty()) {
      NIB_TRY(request.batch_with, read_token_file(batch_with_));
      llm_options.max_num_seqs = 2;
    }
    if (decode_from_ >= 0 && static_cast<std::size_t>(decode_from_) > request.tokens.size()) {
      return bad_input(fmt::format("--decode-from {} is past the end of {} tokens ({})", decode_from_,
                                   request.tokens.size(), tokens_file_.string()));
    }
    request.prefill_chunk = prefill_chunk_;
    request.decode_from = decode_from_;
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    const InterruptScope scope(llm.get());
    const auto logits = llm->logits(request);
    if (interrupted()) return interrupted_error();
    if (!logits.ok()) return logits.error();
    return write(*logits, request.tokens.size(), model_name(llm_options));
  }

 private:
  Status write(const std::vector<float>& logits, std::size_t rows, std::string_view model) const {
    const std::size_t columns = logits.size() / rows;
    const std::string header = safetensors_header(rows, columns, model);
    const std::string_view data(reinterpret_cast<const char*>(logits.data()), logits.size() * sizeof(float));
    const std::array parts{std::string_view(header), data};
    NIB_TRY_STATUS(write_file_atomically(output_, parts));
    if (!common_.json) {
      return print_line(fmt::format("{}: logits F32 [{}, {}]", output_.string(), rows, columns));
    }
    JsonWriter json;
    json.begin_object().field("output", output_.string()).field("tokens", rows).field("vocab_size", columns);
    return print_line(json.end_object().text());
  }

  ModelOptions model_;
  CommonOptions common_;
  std::filesystem::path tokens_file_;
  std::filesystem::path output_;
  std::filesystem::path batch_with_;
  std::int32_t prefill_chunk_ = 0;
  std::int32_t decode_from_ = -1;
};

}  // namespace

std::unique_ptr<Command> make_logits() { return std::make_unique<LogitsCommand>(); }

}  // namespace nibble::cli
