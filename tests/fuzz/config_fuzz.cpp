// Any bytes as config.json and as hf_quant_config.json: an error, or a config whose fields are in range.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/json.h"
#include "formats/hf_config.h"
#include "formats/quantization_config.h"

namespace {

using namespace nibble;

void check_error(const Error& error) {
  const bool expected = error.code == ErrorCode::bad_input || error.code == ErrorCode::unsupported;
  if (!expected || error.message.empty() || error.message.size() > 4096) std::abort();
}

void check_config(const formats::HfConfig& c) {
  const bool sound = c.hidden_size > 0 && c.vocab_size > 0 && c.num_hidden_layers > 0 &&
                     c.num_hidden_layers <= 1024 && c.num_attention_heads > 0 && c.kv_lora_rank > 0 &&
                     c.qk_rope_head_dim % 2 == 0 && c.rope_theta > 1.0 && c.rms_norm_eps > 0.0 &&
                     c.n_group > 0;
  if (!sound) std::abort();
  if (c.n_routed_experts > 0 && c.num_experts_per_tok > c.n_routed_experts / c.n_group * c.topk_group)
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = formats::parse_hf_config(text, "fuzz");
  config.ok() ? check_config(*config) : check_error(config.error());

  const auto json = parse_json(text, "fuzz");
  if (!json.ok() || !json->is_object()) return 0;
  const auto quantization = formats::parse_hf_quant_config(formats::ConfigFields(*json, "fuzz"));
  if (!quantization.ok()) check_error(quantization.error());
  return 0;
}
