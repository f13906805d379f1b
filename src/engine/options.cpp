#include "engine/options.h"

#include <fmt/format.h>

#include "engine/device_options.h"

namespace nibble::engine {
namespace {

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
  NIB_TRY(const DType cache_dtype, parse_cache_dtype(options.kv_cache_dtype, device, "kv_cache_dtype"));
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
  NIB_TRY(parsed.device, parse_device_options(options.device, options.num_threads, options.isa, "threads"));
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
