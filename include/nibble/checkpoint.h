// Looking at a checkpoint directory without loading it: tensors, formats, memory plan.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble {

struct TensorSummary {
  std::string name;
  std::string dtype;  // safetensors spelling
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;
  std::string file;
};

struct FormatSummary {
  std::string format;  // "bf16", "fp8", ...
  std::int64_t num_tensors = 0;
  std::int64_t num_parameters = 0;
  std::uint64_t bytes = 0;
};

struct CheckpointSummary {
  std::string model_type;
  std::string architecture;
  std::string quantization;  // what config.json claims; "none"
  std::int32_t num_layers = 0;
  std::int64_t num_parameters = 0;  // logical weights
  std::uint64_t bytes = 0;
  std::vector<FormatSummary> formats;
  std::vector<TensorSummary> tensors;
  std::vector<std::string> notes;  // ignored tensors (MTP layer), stale index, ...
};

// Opens and validates headers and config; reads no weights.
Result<CheckpointSummary> inspect_checkpoint(const std::filesystem::path& model_dir);

// SHA-256 of each shard file, lowercase hex, in index order.
struct FileDigest {
  std::string file;
  std::uint64_t bytes = 0;
  std::string sha256;
};
Result<std::vector<FileDigest>> digest_checkpoint(const std::filesystem::path& model_dir,
                                                  const ProgressCallback& progress = {});

struct PlanRow {
  std::string kind;  // attn, mlp, experts, other
  std::string format;
  std::int64_t num_parameters = 0;
  std::uint64_t packed_bytes = 0;
};

struct MemoryPlan {
  std::string device;
  std::vector<PlanRow> weights;
  std::uint64_t weight_bytes = 0;
  std::uint64_t cache_bytes_per_token = 0;
  std::int32_t max_model_len = 0;
  std::uint64_t cache_bytes = 0;
  std::uint64_t scratch_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t available_bytes = 0;
  bool fits = false;
  std::uint64_t bytes_per_decode_token = 0;  // read at batch 1, context 0
  std::vector<std::string> kernels;          // "experts: mxfp4 x f32 (avx512)" ...
  // Nodes of the CUDA graph of a decode step of one sequence, and those of each layer; 0 without a GPU.
  std::int64_t graph_nodes = 0;
  std::vector<std::int64_t> layer_graph_nodes;
};

// Memory and kernel plan from headers (or, with dummy weights, from the config) only.
Result<MemoryPlan> plan_model(const LlmOptions& options);

// A quantisation scheme weights can run in: --quantization, --experts, ...
struct SchemeInfo {
  std::string name;                  // "fp8_w8a8"
  std::vector<std::string> aliases;  // other accepted names
  std::string weights;               // "fp8"
  std::string activations;           // "a16": not quantised; "fp8", "int8"
  std::string summary;
};
std::vector<SchemeInfo> quantization_schemes();

}  // namespace nibble
