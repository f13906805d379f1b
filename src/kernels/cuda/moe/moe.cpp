#include "kernels/cuda/moe/moe.h"

#include <algorithm>

#include "kernels/cuda/moe/combine.h"
#include "kernels/cuda/moe/decode_formats.h"
#include "kernels/cuda/moe/prefill.h"
#include "kernels/cuda/moe/route.h"

namespace nibble::kernels::cuda::moe {
namespace {

const DecodeProducts& decode_products_of(Format format) {
  switch (format) {
    case Format::f32: return kDecodeF32;
    case Format::f16: return kDecodeF16;
    case Format::bf16: return kDecodeBf16;
    case Format::fp8: return kDecodeFp8;
    case Format::mxfp4: return kDecodeMxfp4;
    case Format::nvfp4: return kDecodeNvfp4;
    case Format::int8: return kDecodeInt8;
    case Format::int4: return kDecodeInt4;
  }
  return kDecodeF32;
}

bool sorts_in_block(const MoeParams& p, MoeKernel kernel) {
  // Counting in a block takes three words an expert of memory that is the ring's later.
  return kernel == MoeKernel::decode && std::int64_t{p.m} * slots_of_token(p) <= kMaxBlockSlots &&
         p.num_experts <= 4096;
}

// Hands out pieces of scratch; with null it only counts.
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}

  template <class T>
  T* take(std::int64_t count) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  static constexpr std::size_t kAlign = 256;
  std::byte* base_;
  std::size_t used_ = 0;
};

struct Plan {
  MoeParams p;
  PrefillParams prefill;  // but for decode
  std::int32_t* route_work = nullptr;
  std::int64_t max_sorted = 0;
  std::size_t bytes = 0;
};

// What a kernel does with tokens.
struct KernelShape {
  std::int32_t tile_tokens;
  bool middle;
  bool fp8;
};
KernelShape shape_of(MoeKernel kernel, Format format) {
  switch (kernel) {
    case MoeKernel::decode: return {kDecodeTileTokens, false, false};
    case MoeKernel::middle: return {kMiddleTileTokens, true, false};
    case MoeKernel::prefill:
      return {has_wide_scales(format) ? kPrefillFewerTokens : kPrefillTileTokens, false, false};
    case MoeKernel::middle_fp8: return {kMiddleTileTokens, true, true};
    case MoeKernel::prefill_fp8: return {kPrefillFewerTokens, false, true};
  }
  return {kDecodeTileTokens, false, false};
}

// Tokens as the prefill products take them, rows of which have whole ring stages.
struct TokenPieces {
  std::byte* values;
  float* scales;
};
TokenPieces take_tokens(Pieces& pieces, std::int64_t rows, const PackedWeight& w, bool fp8) {
  const std::int64_t panels = fp8 ? (w.num_blocks + 1) / 2 : w.num_blocks;
  constexpr std::int64_t kPanelBytes = 128;
  TokenPieces tokens{};
  tokens.values = pieces.take<std::byte>(rows * panels * kPanelBytes);
  tokens.scales = fp8 ? pieces.take<float>(rows * panels) : nullptr;
  return tokens;
}

Plan make_plan(MoeParams p, MoeKernel kernel, std::byte* scratch) {
  Plan plan{};
  Pieces pieces(scratch);
  const KernelShape shape = shape_of(kernel, p.gate.format);
  const std::int64_t pairs = std::int64_t{p.m} * slots_of_token(p);
  plan.max_sorted = pairs;
  p.route = {};
  if (!sorts_in_block(p, kernel)) {
    // Prefill deals an expert's tokens evenly: tiles have half of the most tokens but for an expert's last.
    const RouteSizes sizes =
        route_sizes(pairs, p.num_experts, kernel == MoeKernel::decode ? 1 : shape.tile_tokens / 2);
    plan.max_sorted = sizes.max_sorted;
    p.route.num_tiles = pieces.take<std::int32_t>(1);
    p.route.tiles = pieces.take<Tile>(sizes.max_tiles);
    p.route.sorted = pieces.take<std::int32_t>(sizes.max_sorted);
    plan.route_work = pieces.take<std::int32_t>(sizes.work_words);
    if (kernel != MoeKernel::decode) {
      p.route.positions = pieces.take<std::int32_t>(pairs);
      p.route.sorted_weights = pieces.take<float>(sizes.max_sorted);
    }
  }
  p.h_row = (std::int64_t{p.down.k} + kBlockK - 1) / kBlockK * kBlockK;
  if (kernel == MoeKernel::decode) {
    p.h = pieces.take<std::uint16_t>(plan.max_sorted * p.h_row);
    p.h_f32 = p.hidden == Hidden::plain ? nullptr : pieces.take<float>(plan.max_sorted * p.h_row);
  } else {
    const TokenPieces x = take_tokens(pieces, plan.max_sorted, p.gate, shape.fp8);
    const TokenPieces h = take_tokens(pieces, plan.max_sorted, p.down, shape.fp8);
    plan.prefill.x = x.values;
    plan.prefill.x_scales = x.scales;
    plan.prefill.h = h.values;
    plan.prefill.h_scales = h.scales;
  }
  if (kernel == MoeKernel::decode) {
    p.partial = pieces.take<float>(pairs * p.down.n);
  } else {
    p.partial_bf16 = pieces.take<std::uint16_t>(pairs * partial_row(p));
  }
  plan.p = p;
  plan.prefill.p = p;
  plan.bytes = pieces.used();
  return plan;
}

// Whether the decode products are one launch: nothing comes between them.
bool is_one_launch(const MoeParams& p) { return p.gate.format == p.down.format && p.hidden == Hidden::plain; }

// Tokens per tile: room for more than an expert ever has costs ring stages, and both products need shared
// memory for them.
std::int32_t decode_tile_tokens(const MoeParams& p) {
  const float pairs = static_cast<float>(p.m) * static_cast<float>(p.topk);
  const float per_expert = pairs / static_cast<float>(p.num_experts);
  const std::int32_t wanted = per_expert <= 0.8F ? 4 : per_expert <= 2.0F ? 6 : kDecodeTileTokens;
  const int few = std::min(p.m, wanted);
  if (is_one_launch(p)) return decode_products_of(p.gate.format).tile_tokens(p, kFirst | kSecond, few);
  const int first = decode_products_of(p.gate.format).tile_tokens(p, kFirst, few);
  return decode_products_of(p.down.format).tile_tokens(p, kSecond, first);
}

void launch_decode(const Plan& plan, int num_sms, cudaStream_t stream) {
  const MoeParams& p = plan.p;
  const DecodeOptions options{.num_sms = num_sms, .tile_tokens = decode_tile_tokens(p)};
  if (p.route.tiles != nullptr) {
    launch_route(p.ids, p.weights, p.m * p.topk, p.num_experts, options.tile_tokens, p.route, plan.route_work,
                 stream);
  }
  const DecodeProducts& gate = decode_products_of(p.gate.format);
  if (is_one_launch(p)) return gate.launch(p, options, kFirst | kSecond, stream);
  gate.launch(p, options, kFirst, stream);
  if (p.hidden != Hidden::plain) launch_quantize_hidden(p, plan.max_sorted, stream);
  decode_products_of(p.down.format).launch(p, options, kSecond, stream);
}

const PrefillProducts& prefill_products_of(Format format, const KernelShape& shape) {
  switch (format) {
    case Format::nvfp4: return shape.middle ? kMiddleNvfp4 : kPrefillNvfp4;
    case Format::bf16: return kPrefillBf16;  // four warpgroups were no faster at any size
    case Format::fp8:
      if (shape.fp8) return shape.middle ? kMiddleFp8Fp8 : kPrefillFp8Fp8;
      return shape.middle ? kMiddleFp8 : kPrefillFp8;
    case Format::int8: return shape.middle ? kMiddleInt8 : kPrefillInt8;
    case Format::int4: return shape.middle ? kMiddleInt4 : kPrefillInt4;
    default: break;
  }
  if (shape.fp8) return shape.middle ? kMiddleMxfp4Fp8 : kPrefillMxfp4Fp8;
  return shape.middle ? kMiddleMxfp4 : kPrefillMxfp4;
}

void launch_prefill(const Plan& plan, const KernelShape& shape, int num_sms, cudaStream_t stream) {
  const MoeParams& p = plan.p;
  const PrefillProducts& products = prefill_products_of(p.gate.format, shape);
  launch_route(p.ids, p.weights, p.m * p.topk, p.num_experts, shape.tile_tokens, p.route, plan.route_work,
               stream);
  (shape.fp8 ? launch_prefill_gather_fp8 : launch_prefill_gather)(plan.prefill, stream);
  products.first(plan.prefill, num_sms, stream);
  products.second(plan.prefill, num_sms, stream);
}

bool is_plain(const PackedWeight& w, Format format) {
  return w.format == format && !has_wide_scales(format) && w.permutation_offset == 0;
}

}  // namespace

bool can_take_shared(const MoeParams& p) {
  const Format format = p.gate.format;
  bool plain = p.inputs == Hidden::plain && p.hidden == Hidden::plain;
  for (const PackedWeight* w : {&p.gate, &p.up, &p.down, &p.shared.gate, &p.shared.up, &p.shared.down}) {
    plain = plain && is_plain(*w, format);
  }
  // Shared experts' weights fill the ring while slots are sorted.
  return plain && p.shared.count > 0 && choose_moe_kernel(p) == MoeKernel::decode &&
         std::int64_t{p.m} * slots_of_token(p) <= kMaxComparedSlots && p.m <= decode_tile_tokens(p);
}

std::size_t scratch_bytes(const MoeParams& p, MoeKernel kernel) {
  return make_plan(p, kernel, nullptr).bytes;
}

void launch_fused_moe(const MoeParams& p, MoeKernel kernel, std::byte* scratch, int num_sms,
                      cudaStream_t stream) {
  if (p.m == 0 || p.topk == 0) return;
  const Plan plan = make_plan(p, kernel, scratch);
  if (kernel == MoeKernel::decode) {
    launch_decode(plan, num_sms, stream);
  } else {
    launch_prefill(plan, shape_of(kernel, p.gate.format), num_sms, stream);
  }
  launch_combine(plan.p, stream);
}

}  // namespace nibble::kernels::cuda::moe
