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

struct QuantizeOptions {
  std::filesystem::path source;       // checkpoint directory
  std::filesystem::path destination;  // created; must not be source or inside it
  // Formats of the projections of attention, dense MLPs and experts: bf16, f16, f32, fp8, int8, int4, mxfp4,
  // nvfp4, or auto: as stored. The fields below choose by kind of layer; empty = `format`. Norms, biases and
  // the router always stay as they are.
  std::string format = "auto";
  std::string attn;
  std::string mlp;
  std::string experts;
  std::string other;                 // embedding and head; empty = as stored
  std::vector<std::string> exclude;  // modules or globs that stay as stored
  bool search_scales = true;         // scales of least squared error, else the format's plain rule (faster)
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;  // a file may be larger by the header
  int num_threads = 0;                                     // 0 = all cores
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
// interrupted run goes on where it ended when called again with the same options.
// Errors: bad_input (source malformed, weights that are not finite, a destination in use), unsupported
// (formats no published configuration can express together: refused before weights are read),
// out_of_memory, runtime (disk full ...), interrupted (progress returned false).
Result<QuantizeReport> quantize_checkpoint(const QuantizeOptions& options,
                                           const ProgressCallback& progress = {});

}  // namespace nibble
