#include "kernels/cuda/moe/moe.h"

#include <algorithm>

#include "kernels/cuda/moe/combine.h"
#include "kernels/cuda/moe/decode_formats.h"
#include "kernels/cuda/moe/prefill_formats.h"
#include "kernels/cuda/moe/route.h"

namespace nibble::kernels::cuda::moe {
namespace {

// Beyond so many pairs sorting in every block costs more than three launches.
constexpr std::int64_t kMaxInBlockPairs = 512;

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
  return kernel == MoeKernel::decode && std::int64_t{p.m} * p.topk <= kMaxInBlockPairs &&
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
  std::int32_t* route_work = nullptr;
  std::uint16_t* x = nullptr;  // prefill's rounded activations
  std::int64_t max_sorted = 0;
  std::int64_t max_tiles = 0;
  std::size_t bytes = 0;
};

std::int64_t row_width(const PackedWeight& w) { return std::int64_t{w.num_blocks} * kBlockK; }

// Tiles have at least so many tokens but for an expert's last.
std::int32_t smallest_tile(MoeKernel kernel) {
  switch (kernel) {
    case MoeKernel::decode: return 1;
    case MoeKernel::middle: return kMiddleTileTokens / 2;
    case MoeKernel::prefill: return kPrefillTileTokens / 2;
  }
  return 1;
}

Plan make_plan(MoeParams p, Hidden hidden, MoeKernel kernel, std::byte* scratch) {
  Plan plan{};
  Pieces pieces(scratch);
  const std::int64_t pairs = std::int64_t{p.m} * p.topk;
  plan.max_sorted = pairs;
  p.route = {};
  if (!sorts_in_block(p, kernel)) {
    const RouteSizes sizes = route_sizes(pairs, p.num_experts, smallest_tile(kernel));
    plan.max_sorted = sizes.max_sorted;
    plan.max_tiles = sizes.max_tiles;
    p.route.num_tiles = pieces.take<std::int32_t>(1);
    p.route.tiles = pieces.take<Tile>(sizes.max_tiles);
    p.route.sorted = pieces.take<std::int32_t>(sizes.max_sorted);
    plan.route_work = pieces.take<std::int32_t>(sizes.work_words);
  }
  p.h_row = (std::int64_t{p.down.k} + kBlockK - 1) / kBlockK * kBlockK;
  if (kernel != MoeKernel::decode) plan.x = pieces.take<std::uint16_t>(plan.max_sorted * row_width(p.gate));
  p.h = pieces.take<std::uint16_t>(plan.max_sorted * p.h_row);
  p.h_f32 = hidden == Hidden::plain ? nullptr : pieces.take<float>(plan.max_sorted * p.h_row);
  p.partial = pieces.take<float>(pairs * p.down.n);
  plan.p = p;
  plan.bytes = pieces.used();
  return plan;
}

// Tokens per tile: room for more than an expert ever has costs ring stages, and both products need shared
// memory for them.
std::int32_t decode_tile_tokens(const MoeParams& p) {
  const float pairs = static_cast<float>(p.m) * static_cast<float>(p.topk);
  const float per_expert = pairs / static_cast<float>(p.num_experts);
  const std::int32_t wanted = per_expert <= 0.8F ? 4 : per_expert <= 2.0F ? 6 : kDecodeTileTokens;
  const std::int32_t first = decode_products_of(p.gate.format).first_tile_tokens(p, std::min(p.m, wanted));
  return decode_products_of(p.down.format).second_tile_tokens(p, first);
}

void launch_decode(const Plan& plan, Hidden hidden, int num_sms, cudaStream_t stream, unsigned parts) {
  const MoeParams& p = plan.p;
  DecodeOptions options{.num_sms = num_sms, .tile_tokens = decode_tile_tokens(p), .overlap = true};
  if ((parts & kSortAndFirst) != 0) {
    if (p.route.tiles != nullptr) {
      launch_route(p.ids, p.m * p.topk, p.num_experts, options.tile_tokens, p.route, plan.route_work, stream);
    }
    decode_products_of(p.gate.format).first(p, options, stream);
    if (hidden != Hidden::plain) launch_quantize_hidden(p, hidden, plan.max_sorted, stream);
  }
  // Timed alone, or behind a kernel that lets nobody start early, there is nothing to overlap with.
  options.overlap = hidden == Hidden::plain && (parts & kSortAndFirst) != 0;
  if ((parts & kSecond) != 0) decode_products_of(p.down.format).second(p, options, stream);
}

const PrefillProducts& prefill_products_of(Format format, bool middle) {
  if (format == Format::mxfp4) return middle ? kMiddleMxfp4 : kPrefillMxfp4;
  return middle ? kMiddleNvfp4 : kPrefillNvfp4;
}

void launch_prefill(const Plan& plan, bool middle, int num_sms, cudaStream_t stream, unsigned parts) {
  const MoeParams& p = plan.p;
  const PrefillParams params{.p = p, .x = plan.x, .h = p.h, .max_tiles = plan.max_tiles};
  if ((parts & kSortAndFirst) != 0) {
    launch_route(p.ids, p.m * p.topk, p.num_experts, middle ? kMiddleTileTokens : kPrefillTileTokens, p.route,
                 plan.route_work, stream);
    launch_prefill_gather(params, stream);
    prefill_products_of(p.gate.format, middle).first(params, num_sms, stream);
  }
  if ((parts & kSecond) != 0) prefill_products_of(p.down.format, middle).second(params, num_sms, stream);
}

}  // namespace

std::size_t scratch_bytes(const MoeParams& p, Hidden hidden, MoeKernel kernel) {
  return make_plan(p, hidden, kernel, nullptr).bytes;
}

void launch_fused_moe(MoeParams p, Hidden hidden, MoeKernel kernel, std::byte* scratch, int num_sms,
                      cudaStream_t stream, unsigned parts) {
  if (p.m == 0 || p.topk == 0) return;
  const Plan plan = make_plan(p, hidden, kernel, scratch);
  if (kernel == MoeKernel::decode) {
    launch_decode(plan, hidden, num_sms, stream, parts);
  } else {
    launch_prefill(plan, kernel == MoeKernel::middle, num_sms, stream, parts);
  }
  if ((parts & kCombine) != 0) launch_combine(plan.p, stream);
}

}  // namespace nibble::kernels::cuda::moe
