#include "kernels/cuda/moe/moe.h"

#include <algorithm>

#include "kernels/cuda/moe/combine.h"
#include "kernels/cuda/moe/decode.h"
#include "kernels/cuda/moe/decode_formats.h"
#include "kernels/cuda/moe/prefill.h"
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
  return kernel == MoeKernel::decode && std::int64_t{p.m} * p.topk <= kMaxInBlockPairs && p.num_experts <= 4096;
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

Plan make_plan(MoeParams p, Hidden hidden, MoeKernel kernel, std::byte* scratch) {
  Plan plan{};
  Pieces pieces(scratch);
  const std::int64_t pairs = std::int64_t{p.m} * p.topk;
  plan.max_sorted = pairs;
  p.route = {};
  if (!sorts_in_block(p, kernel)) {
    const RouteSizes sizes =
        route_sizes(pairs, p.num_experts, kernel == MoeKernel::prefill ? kPrefillTileTokens : 1);
    plan.max_sorted = sizes.max_sorted;
    plan.max_tiles = sizes.max_tiles;
    p.route.num_tiles = pieces.take<std::int32_t>(1);
    p.route.tiles = pieces.take<Tile>(sizes.max_tiles);
    p.route.sorted = pieces.take<std::int32_t>(sizes.max_sorted);
    plan.route_work = pieces.take<std::int32_t>(sizes.work_words);
  }
  p.h_row = (std::int64_t{p.down.k} + kBlockK - 1) / kBlockK * kBlockK;
  if (kernel == MoeKernel::prefill) plan.x = pieces.take<std::uint16_t>(plan.max_sorted * row_width(p.gate));
  p.h = pieces.take<std::uint16_t>(plan.max_sorted * p.h_row);
  p.h_f32 = hidden == Hidden::plain ? nullptr : pieces.take<float>(plan.max_sorted * p.h_row);
  p.partial = pieces.take<float>(pairs * p.down.n);
  plan.p = p;
  plan.bytes = pieces.used();
  return plan;
}

DecodeOptions decode_options(const MoeParams& p, int num_sms) {
  // Room for more tokens than an expert ever has costs ring stages.
  const auto per_expert = static_cast<float>(p.m) * static_cast<float>(p.topk) / static_cast<float>(p.num_experts);
  const std::int32_t wanted = per_expert <= 0.8F ? 4 : per_expert <= 2.0F ? 6 : kDecodeTileTokens;
  DecodeOptions options{.num_sms = num_sms, .tile_tokens = std::min(p.m, wanted), .overlap = false};
  options.tile_tokens = decode_tile_tokens(p, options);
  return options;
}

void launch_decode(const Plan& plan, Hidden hidden, int num_sms, cudaStream_t stream, unsigned parts) {
  const MoeParams& p = plan.p;
  DecodeOptions options = decode_options(p, num_sms);
  if ((parts & kSortAndFirst) != 0) {
    if (p.route.tiles != nullptr) {
      launch_route(p.ids, p.m * p.topk, p.num_experts, options.tile_tokens, p.route, plan.route_work, stream);
    }
    launch_decode_first(p, options, stream);
    options.overlap = hidden == Hidden::plain;
    if (hidden != Hidden::plain) launch_quantize_hidden(p, hidden, plan.max_sorted, stream);
  }
  if ((parts & kSecond) != 0) launch_decode_second(p, options, stream);
}

void launch_prefill(const Plan& plan, int num_sms, cudaStream_t stream, unsigned parts) {
  const MoeParams& p = plan.p;
  const PrefillParams params{.p = p, .x = plan.x, .h = p.h, .max_tiles = plan.max_tiles};
  if ((parts & kSortAndFirst) != 0) {
    launch_route(p.ids, p.m * p.topk, p.num_experts, kPrefillTileTokens, p.route, plan.route_work, stream);
    launch_prefill_gather(params, stream);
    (p.gate.format == Format::mxfp4 ? launch_prefill_first_mxfp4 : launch_prefill_first_nvfp4)(params, num_sms,
                                                                                              stream);
  }
  if ((parts & kSecond) != 0) {
    (p.down.format == Format::mxfp4 ? launch_prefill_second_mxfp4 : launch_prefill_second_nvfp4)(params, num_sms,
                                                                                                stream);
  }
}

}  // namespace

int decode_tile_tokens(const MoeParams& p, const DecodeOptions& options) {
  const int first = decode_products_of(p.gate.format).first_tile_tokens(p, options.tile_tokens);
  return decode_products_of(p.down.format).second_tile_tokens(p, first);
}

void launch_decode_first(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream) {
  decode_products_of(p.gate.format).first(p, options, stream);
}

void launch_decode_second(const MoeParams& p, const DecodeOptions& options, cudaStream_t stream) {
  decode_products_of(p.down.format).second(p, options, stream);
}

std::size_t scratch_bytes(const MoeParams& p, Hidden hidden, MoeKernel kernel) {
  return make_plan(p, hidden, kernel, nullptr).bytes;
}

void launch_fused_moe(MoeParams p, Hidden hidden, MoeKernel kernel, std::byte* scratch, int num_sms,
                      cudaStream_t stream, unsigned parts) {
  if (p.m == 0 || p.topk == 0) return;
  const Plan plan = make_plan(p, hidden, kernel, scratch);
  if (kernel == MoeKernel::prefill) {
    launch_prefill(plan, num_sms, stream, parts);
  } else {
    launch_decode(plan, hidden, num_sms, stream, parts);
  }
  if ((parts & kCombine) != 0) launch_combine(plan.p, stream);
}

}  // namespace nibble::kernels::cuda::moe
