#include "engine/options.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

namespace nibble::engine {
namespace {

constexpr int kMaxThreads = 1024;

Result<kernels::DeviceOptions> parse_device(const LlmOptions& options) {
  if (options.device != "auto" && options.device != "cpu" && options.device != "cuda") {
    return bad_input(fmt::format("device '{}' is unknown; use auto, cpu or cuda", options.device));
  }
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return bad_input(
        fmt::format("threads is {}, must be from 0 (all cores) to {}", options.num_threads, kMaxThreads));
  }
  const char* isa = std::getenv("NIBBLE_ISA");
  const std::string tier = !options.isa.empty() || isa == nullptr ? options.isa : isa;
  // Who names a tier of the CPU's kernels means the CPU.
  const bool on_gpu = options.device == "cuda" ||
                      (options.device == "auto" && tier.empty() && !kernels::cuda_devices().names.empty());
  return kernels::DeviceOptions{
      .kind = on_gpu ? DeviceKind::cuda : DeviceKind::cpu, .num_threads = options.num_threads, .isa = tier};
}

Result<DType> parse_cache_dtype(std::string_view name, DeviceKind device) {
  // On the CPU float32 costs twice the memory of bf16 and keeps the results of the reference; a step reads
  // far more weights than cache. A GPU's matrix units take bf16 anyway.
  if (name == "auto") return device == DeviceKind::cuda ? DType::bf16 : DType::f32;
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "fp8" || name == "fp8_e4m3") return DType::f8_e4m3;
  if (name == "fp8_e5m2") return DType::f8_e5m2;
  return bad_input(
      fmt::format("kv_cache_dtype '{}' is unknown; use auto, f32, bf16, fp8, fp8_e4m3 or fp8_e5m2", name));
}

Result<models::LoadOptions> parse_load(const LlmOptions& options, DeviceKind device) {
  if (options.model.empty() && !(options.dummy_weights && !options.config.empty())) {
    return bad_input(options.dummy_weights
                         ? "dummy weights need a config.json: give a model directory or --config"
                         : "no model directory given");
  }
  if (!options.dummy_weights && !options.config.empty()) {
    return bad_input(
        "--config goes with dummy weights (--load-format dummy); a checkpoint has its own config.json");
  }
  if (options.num_hidden_layers < 0) {
    return bad_input(fmt::format("num_hidden_layers is {}, must be at least 0 (0 = all layers)",
                                 options.num_hidden_layers));
  }
  if (options.num_hidden_layers > 0 && !options.dummy_weights) {
    return bad_input("num_hidden_layers shortens a model with dummy weights only (--load-format dummy)");
  }
  NIB_TRY(const DType cache_dtype, parse_cache_dtype(options.kv_cache_dtype, device));
  NIB_TRY(const models::MoeBackend moe_backend, models::parse_moe_backend(options.moe_backend));
  return models::LoadOptions{.dir = options.model,
                             .config = options.config,
                             .dummy = options.dummy_weights,
                             .quant = {.quantization = options.quantization,
                                       .attn = options.attn_quantization,
                                       .mlp = options.mlp_quantization,
                                       .experts = options.experts_quantization,
                                       .other = options.other_quantization,
                                       .search_scales = options.search_scales,
                                       .moe_backend = moe_backend,
                                       .exclude = options.quantization_exclude},
                             .num_hidden_layers = options.num_hidden_layers,
                             .cache_dtype = cache_dtype};
}

}  // namespace

Result<ParsedOptions> parse_options(const LlmOptions& options) {
  ParsedOptions parsed;
  NIB_TRY(parsed.device, parse_device(options));
  NIB_TRY(parsed.load, parse_load(options, parsed.device.kind));
  parsed.device.reference_moe = parsed.load.quant.moe_backend == models::MoeBackend::reference;
  if (options.max_model_len < 0) {
    return bad_input(
        fmt::format("max_model_len is {}, must be at least 0 (0 = what the model allows and memory holds)",
                    options.max_model_len));
  }
  parsed.size = {.max_model_len = options.max_model_len,
                 .max_num_seqs = options.max_num_seqs,
                 .max_num_batched_tokens = options.max_num_batched_tokens,
                 .page_size = options.page_size,
                 .mla_mode = options.mla};
  parsed.tokenizer_dir = options.model.empty() ? options.config.parent_path() : options.model;
  return parsed;
}

}  // namespace nibble::engine
