// Quantising a checkpoint: from a directory in any format nibble reads to a new directory, in formats that
// nibble and other tools read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble {

// How format "gptq" quantises: integer codes chosen so that the layers' outputs on a calibration text change
// least. The text runs through the source model layer by layer, on the CPU; memory is one layer, the hidden
// states of the text (4 * hidden_size bytes a token) and the Hessians (max_hessian_bytes).
struct GptqSettings {
  std::vector<TokenId> calibration;  // the text in the source's tokens; at least one
  std::int32_t window = 2048;     // tokens of it that see each other; the model's positions if they are fewer
  int bits = 4;                   // or 8
  std::int64_t group_size = 128;  // inputs that share a scale: a multiple of 32, or -1: one scale per row
  bool act_order = false;         // inputs that matter most first; groups follow that order (g_idx)
  bool zero_points = false;       // asymmetric
  double damp_percent = 0.01;     // of the Hessian's mean diagonal, added to it; (0, 1]
  // A layer whose Hessians do not fit is run several times.
  std::uint64_t max_hessian_bytes = std::uint64_t{4} << 30;
};

struct QuantizeOptions {
  std::filesystem::path source;       // checkpoint directory
  std::filesystem::path destination;  // created; must not be source or inside it
  // Formats of the projections of attention, dense MLPs and experts: bf16, f16, f32, fp8, int8, int4, mxfp4,
  // nvfp4, gptq, or auto: as stored. The fields below choose by kind of layer; empty = `format`. Norms,
  // biases and the router always stay as they are. gptq goes with plain formats only.
  std::string format = "auto";
  std::string attn;
  std::string mlp;
  std::string experts;
  std::string other;                 // embedding and head; empty = as stored
  std::vector<std::string> exclude;  // modules or globs that stay as stored
  bool search_scales = true;         // scales of least squared error, else the format's plain rule (faster)
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;  // a file may be larger by the header
  int num_threads = 0;                                     // 0 = all cores
  GptqSettings gptq;                                       // of format gptq
  bool overwrite = false;  // replace what the destination holds, instead of refusing or resuming
};

// One tensor of the source, or one linear layer with its scales.
struct QuantizedTensor {
  std::string name;
  std::string source_format;  // "bf16", "fp8", ...
  std::string format;
  std::int64_t num_parameters = 0;
  double relative_rms_error = 0;  // sqrt(sum (w - w')^2 / sum w^2); 0 = unchanged
  double max_error = 0;           // largest |w - w'|
  double sum_of_squares = 0;      // sum w^2, if the format changed
  std::uint64_t source_bytes = 0;
  std::uint64_t bytes = 0;
  // gptq: tokens of the calibration text that the layer saw; too few for it: rounded to nearest instead.
  std::int64_t calibration_tokens = 0;
  bool rounded_to_nearest = false;
};

struct QuantizeReport {
  std::vector<QuantizedTensor> tensors;  // in the order of the shards
  std::vector<std::string> files;        // weight files
  std::uint64_t source_bytes = 0;        // of tensors
  std::uint64_t bytes = 0;
  std::int64_t num_quantized = 0;  // tensors whose format changed
  double relative_rms_error = 0;   // over all tensors whose format changed
  int resumed_shards = 0;          // that an interrupted run had finished
  std::vector<std::string> notes;
};

// Writes shard after shard, each complete or not there, then the index, config.json, the tokenizer's files
// and, last, quantization_report.json. Progress phase "quantize", unit "bytes" (of the source). An
// interrupted run goes on where it ended when called again with the same options; with gptq the text then
// runs through the finished layers once more, but nothing is computed again for them. Errors: bad_input
// (source malformed, weights that are not finite, a destination in use), unsupported (formats no published
// configuration can express together: refused before weights are read), out_of_memory, runtime (disk full
// ...), interrupted (progress returned false).
Result<QuantizeReport> quantize_checkpoint(const QuantizeOptions& options,
                                           const ProgressCallback& progress = {});

}  // namespace nibble
