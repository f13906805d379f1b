// Llm: a loaded model with its tokenizer and engine. The API the command line is written against.
//
// Threads: one thread at a time may call into an Llm; request_stop() may be called from any thread
// and from a signal handler.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/engine.h"
#include "nibble/result.h"
#include "nibble/tokenizer.h"
#include "nibble/types.h"

namespace nibble {

struct LlmOptions {
  std::filesystem::path model;   // checkpoint directory; may be empty with dummy weights
  std::filesystem::path config;  // config.json for dummy weights; default: model / config.json
  bool dummy_weights = false;    // --load-format dummy
  // Scheme of the projections of attention, dense MLPs and experts: a name of quantization_schemes(), or
  // auto: as the checkpoint stores them (dummy weights: as config.json says). Another format than the stored
  // one is made while loading. The fields below choose by kind of layer; empty = `quantization`.
  std::string quantization = "auto";
  std::string attn_quantization;
  std::string mlp_quantization;
  std::string experts_quantization;
  std::string other_quantization;                 // embedding and head; empty = as stored
  std::vector<std::string> quantization_exclude;  // modules or globs that stay as stored
  // Scales of what is quantised while loading: the legal ones of least squared error, or the format's
  // plain rule (faster).
  bool search_scales = true;
  // How routed experts are computed: "auto", "w4a16", "w4a8", "fp8" or "reference" (docs/quantization.md).
  std::string moe_backend = "auto";
  std::int32_t num_hidden_layers = 0;  // > 0 shortens the model (dummy weights only)
  std::string device = "auto";         // auto, cpu, cuda
  std::string isa;                     // empty = the environment's NIBBLE_ISA, else the best tier
  int num_threads = 0;                 // 0 = all cores
  // Tokens of a sequence, prompt and reply. 0 = the model's max_position_embeddings, halved until cache
  // and scratch of one sequence take at most half of the memory that the weights leave.
  std::int32_t max_model_len = 0;
  std::int32_t max_num_seqs = 1;
  std::int32_t max_num_batched_tokens = 512;  // prefill chunk
  std::int32_t page_size = 64;
  MlaMode mla = MlaMode::automatic;
  std::string kv_cache_dtype = "auto";  // auto, f32, bf16, fp8 (= fp8_e4m3), fp8_e5m2
};

// One sequence to run through the model for its logits.
struct LogitsRequest {
  std::vector<TokenId> tokens;
  std::vector<TokenId> batch_with;  // optional second sequence in the same ragged batches
  std::int32_t prefill_chunk = 0;   // 0 = all at once (up to max_num_batched_tokens)
  std::int32_t decode_from = -1;    // >= 0: tokens from here on are fed one by one
};

struct GenerateRequest {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  std::vector<std::string> stop_strings;
  bool skip_special = true;
};

struct Timings {
  double load_s = 0;
  double prefill_s = 0;
  double decode_s = 0;
  double prefill_tok_s = 0;
  double decode_tok_s = 0;
};

struct Generation {
  std::vector<TokenId> token_ids;
  std::string text;  // empty without a tokenizer
  std::int32_t prompt_tokens = 0;
  FinishReason finish = FinishReason::none;
  Timings timings;
};

// Called once for each token with the text that became certain (never a part of a code point; empty
// while the text may still belong to a stop string, and without a tokenizer), and once more at the
// end if text was held back. Return false to stop.
using TextCallback = std::function<bool(std::string_view text, TokenId token)>;

// Windows are fresh sequences that begin every `stride` tokens of the text; a token is scored by the
// first window that holds it, if it has a predecessor there.
struct PerplexityOptions {
  std::int32_t window = 0;      // tokens of a window, BOS included; 0 = max_model_len
  std::int32_t stride = 0;      // 0 = the text tokens of a window: windows do not overlap
  bool prepend_bos = false;     // every window begins with the BOS
  std::int64_t num_tokens = 0;  // > 0: only so many tokens of the text, from its start
};

struct Perplexity {
  double perplexity = 0;
  double nll = 0;           // total, nats
  std::int64_t tokens = 0;  // scored
  std::int64_t bytes = 0;   // of the text that was evaluated
  double bits_per_byte = 0;
};

// A text cut into windows by PerplexityOptions.
struct TextWindows {
  struct Window {
    std::size_t begin = 0;  // text tokens [begin, end) are in the window
    std::size_t end = 0;
    std::size_t first = 0;  // [first, end) are scored by it
  };
  std::vector<TokenId> tokens;  // of the text, as far as it is evaluated
  std::vector<Window> windows;
  std::optional<TokenId> bos;  // put before each window
  std::int32_t window = 0;     // as resolved from the options
  std::int32_t stride = 0;
  std::int64_t num_scored = 0;  // tokens, over all windows
};

// Receives the logits that predict text token `target`; all finite. An error ends the run.
using PredictionCallback = std::function<Status(TokenId target, std::span<const float> logits)>;

struct LlmInfo {
  std::string model_type;
  std::string device;   // description
  std::string formats;  // "bf16" or "mxfp4 experts, bf16 rest"
  std::int64_t num_parameters = 0;
  std::size_t weight_bytes = 0;
  std::size_t cache_bytes = 0;
  std::int32_t num_layers = 0;
  std::int32_t vocab_size = 0;
  std::int32_t max_model_len = 0;
  double load_s = 0;
  std::vector<std::string> notes;  // for people: an MTP layer left out, dummy weights, ...
};

// Measurements of one step kind (see bench.h).
struct StepCost {
  std::size_t bytes_read = 0;  // that must be read: weights once, cache entries
  double flops = 0;
};

class Llm {
 public:
  static Result<std::unique_ptr<Llm>> load(const LlmOptions& options, const ProgressCallback& progress = {});
  ~Llm();
  Llm(const Llm&) = delete;
  Llm& operator=(const Llm&) = delete;

  [[nodiscard]] const LlmInfo& info() const;
  // Null for dummy weights without a tokenizer.json.
  [[nodiscard]] const Tokenizer* tokenizer() const;

  // bad_input for an empty prompt, ids out of range or a prompt longer than the context;
  // runtime if the logits are not finite.
  Result<Generation> generate(const GenerateRequest& request, const TextCallback& on_text = {});

  // Runs several requests in ragged batches; same answers as one by one.
  Result<std::vector<Generation>> generate_batch(std::span<const GenerateRequest> requests);

  // [tokens, vocab] float32, row t = logits after token t.
  Result<std::vector<float>> logits(const LogitsRequest& request);

  Result<Perplexity> perplexity(std::string_view text, const PerplexityOptions& options,
                                const ProgressCallback& progress = {});

  // The windows that perplexity() scores, and the predictions of one of them, in the order of the text.
  [[nodiscard]] Result<TextWindows> text_windows(std::string_view text,
                                                 const PerplexityOptions& options) const;
  Status predictions(const TextWindows& text, std::size_t window, const PredictionCallback& on_prediction);

  // Asks a running call to stop after the current step: generate then returns FinishReason::cancelled,
  // logits and perplexity ErrorCode::interrupted. Holds until clear_stop().
  void request_stop() noexcept;
  void clear_stop() noexcept;

  // Lower bounds for a decode step of `batch` sequences at `context` tokens, and for a prefill.
  [[nodiscard]] StepCost decode_cost(std::int32_t batch, std::int32_t context) const;
  [[nodiscard]] StepCost prefill_cost(std::int32_t tokens) const;

  [[nodiscard]] EngineStats stats() const;

 private:
  struct Impl;
  explicit Llm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
