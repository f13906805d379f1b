// Which kernel takes which product: decode.cu for few tokens, prefill.cu for more, prefill_fp8.cu for more
// whose activations are FP8, exact.cu where float32 operands are asked for, head.cu for one small matrix per
// head.

#include <algorithm>

#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/exec.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/linear/decode.h"
#include "kernels/cuda/linear/prefill.h"
#include "kernels/cuda/linear/prefill_fp8.h"
#include "kernels/cuda/linear/product.h"
#include "kernels/cuda/ops.h"

namespace nibble::kernels::cuda {
namespace {

constexpr std::size_t align_scratch(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

Launch launch_on(CudaExec& cuda, std::byte* scratch = nullptr) {
  return {.stream = cuda.stream(), .num_sms = cuda.num_sms(), .scratch = scratch};
}

// With `bytes` of scratch. Kernels quantise inputs as they read them, which is no use where columns are
// permuted: other inputs share scales then than lie side by side. There p.x becomes a quantised copy.
Launch launch_on(CudaExec& cuda, Product& p, const PackedWeight* up, std::size_t bytes) {
  const bool permuted = p.w.permutation_offset != 0 || (up != nullptr && up->permutation_offset != 0);
  const bool copies = p.fp8_inputs && permuted;
  const std::size_t after = align_scratch(bytes);
  const std::size_t copy = static_cast<std::size_t>(p.m) * static_cast<std::size_t>(p.w.k) * sizeof(float);
  Launch launch = launch_on(cuda, cuda.scratch(copies ? after + copy : bytes));
  if (!copies) return launch;
  const Rows from{const_cast<float*>(p.x), p.x_stride};
  const Rows to{reinterpret_cast<float*>(launch.scratch + after), p.w.k};
  launch_quantize_activation(launch.stream, ActivationCodes::fp8, from, to, p.m, p.w.k);
  p.x = to.data;
  p.x_stride = to.stride;
  p.fp8_inputs = false;
  return launch;
}

void check_product(const TensorView& x, const WeightShape& w, const TensorView& y) {
  NIB_CHECK(x.dim(x.rank - 1) == w.k && y.dim(y.rank - 1) == w.n && x.dim(0) == y.dim(0),
            "product of x [{}, {}] and w [{}, {}] into y [{}, {}]", x.dim(0), x.dim(x.rank - 1), w.n, w.k,
            y.dim(0), y.dim(y.rank - 1));
}

Product make_product(const TensorView& x, const Weight& w, const TensorView& y) {
  return {.w = packed_weight(w),
          .x = x.f32(),
          .x_stride = x.stride[0],
          .x_head_stride = x.rank == 3 ? x.stride[1] : 0,
          .y = y.as<float>(),
          .y_stride = y.stride[0],
          .y_head_stride = y.rank == 3 ? y.stride[1] : 0,
          .m = static_cast<int>(x.dim(0)),
          .bf16_results = y.dtype == DType::bf16,
          .fp8_inputs = w.shape.activations == quant::ActivationFormat::fp8};
}

// One kernel makes both halves of a gated product.
bool can_fuse(const PackedWeight& gate, const PackedWeight& up) {
  return gate.format == up.format && gate.permutation_offset == 0 && up.permutation_offset == 0 &&
         gate.zeros_offset == up.zeros_offset && gate.chunks_per_scale == up.chunks_per_scale;
}

// Measured on an H100: decode.cu is ahead at one or two tokens; up to its eight where the weights are few,
// for then the second launch of prefill.cu weighs more than activations that are rounded in every block (but
// not more than quantising them there).
bool takes_decode(const Product& p, int num_sms) {
  constexpr std::int64_t kFewBytes = 24 << 20;
  constexpr int kFewTokens = 2;
  const bool few_bytes = p.w.group_code_bytes <= kFewBytes && !p.fp8_inputs;
  return (p.m <= kFewTokens || few_bytes) && can_decode(p.w, p.m, num_sms);
}

bool takes_fp8(const Product& p) { return p.fp8_inputs && can_multiply_fp8(p.w); }

std::size_t scratch_bytes(const Product& p, int num_matrices, int num_sms) {
  if (takes_decode(p, num_sms)) return 0;
  return takes_fp8(p) ? fp8_scratch_bytes(p.w, p.m) : prefill_scratch_bytes(p.w, num_matrices, p.m);
}

// bf16 or FP8 operands; `up` as in launch_decode_product.
void launch_fast_product(const Product& p, const PackedWeight* up, const Launch& launch) {
  if (takes_decode(p, launch.num_sms)) {
    launch_decode_product(p, up, launch);
  } else if (takes_fp8(p)) {
    launch_fp8_product(p, up, launch);
  } else {
    launch_prefill_product(p, up, launch);
  }
}

// Heads that share their inputs are one matrix if their rows, and those of the results, lie one after
// another.
bool is_one_matrix(const Product& p) {
  const PackedWeight& w = p.w;
  return p.x_head_stride == 0 && p.y_head_stride == w.n && w.n == w.num_tiles * kTileRows &&
         w.permutation_offset == 0 && w.group_code_bytes == w.num_tiles * w.tile_code_bytes &&
         w.group_scale_bytes == w.num_tiles * w.tile_scale_bytes;
}

Product as_one_matrix(Product p) {
  PackedWeight& w = p.w;
  w.n *= w.num_groups;
  w.num_tiles *= w.num_groups;
  w.group_code_bytes *= w.num_groups;
  w.group_scale_bytes *= w.num_groups;
  w.num_groups = 1;
  return p;
}

// Gate and up of different kinds: two products and what joins them.
void launch_two_products(Product gate, const PackedWeight& up, CudaExec& cuda) {
  const std::size_t sums = static_cast<std::size_t>(gate.m) * static_cast<std::size_t>(gate.w.n);
  Product part = gate;
  part.w = up;
  const std::size_t inner =
      std::max(scratch_bytes(gate, 1, cuda.num_sms()), scratch_bytes(part, 1, cuda.num_sms()));
  const Launch launch = launch_on(cuda, gate, &up, align_scratch(inner) + 2 * sums * sizeof(float));
  auto* gate_sums = reinterpret_cast<float*>(launch.scratch + align_scratch(inner));
  part = gate;
  part.y = gate_sums;
  part.y_stride = gate.w.n;
  launch_fast_product(part, nullptr, launch);
  part.w = up;
  part.y = gate_sums + sums;
  launch_fast_product(part, nullptr, launch);
  launch_silu_mul(gate_sums, gate_sums + sums, gate.m, gate.w.n, gate.y, gate.y_stride, launch);
}

}  // namespace

void embed(Exec& exec, const EmbedArgs& args) {
  CudaExec& cuda = cuda_exec(exec);
  const Launch launch = launch_on(cuda);
  launch_embed(packed_weight(args.table), args.ids, static_cast<int>(args.y.dim(0)), args.y.f32(),
               args.y.stride[0], launch);
  check_launch("embed");
}

void linear(Exec& exec, const LinearArgs& args) {
  check_product(args.x, args.w.shape, args.y);
  if (args.x.dim(0) == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  Product p = make_product(args.x, args.w, args.y);
  p.accumulate = args.accumulate;
  if (args.precision == Precision::exact) {
    launch_exact_product(p, launch_on(cuda));
  } else {
    const Launch launch = launch_on(cuda, p, nullptr, scratch_bytes(p, 1, cuda.num_sms()));
    launch_fast_product(p, nullptr, launch);
  }
  check_launch("linear");
}

bool quantizes_inputs(quant::ActivationFormat format) { return format == quant::ActivationFormat::fp8; }

void linear_pair(Exec& exec, const LinearPairArgs& args) {
  check_product(args.x, args.first.shape, args.first_y);
  check_product(args.x, args.second.shape, args.second_y);
  if (args.x.dim(0) == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  const Product first = make_product(args.x, args.first, args.first_y);
  const Product second = make_product(args.x, args.second, args.second_y);
  const int num_sms = cuda.num_sms();
  const bool pair = can_pair(first.w, second.w) && first.bf16_results == second.bf16_results;
  const bool first_decodes = takes_decode(first, num_sms);
  const bool second_decodes = takes_decode(second, num_sms);
  if (pair && first_decodes && second_decodes) {
    launch_decode_pair(first, second, launch_on(cuda));
  } else if (pair && !first_decodes && !second_decodes && !takes_fp8(first) && !takes_fp8(second)) {
    launch_prefill_pair(first, second, launch_on(cuda, cuda.scratch(scratch_bytes(first, 1, num_sms))));
  } else {
    linear(exec, {.x = args.x, .w = args.first, .y = args.first_y});
    linear(exec, {.x = args.x, .w = args.second, .y = args.second_y});
  }
  check_launch("linear_pair");
}

void gated_linear(Exec& exec, const GatedLinearArgs& args) {
  check_product(args.x, args.gate.shape, args.y);
  check_product(args.x, args.up.shape, args.y);
  if (args.x.dim(0) == 0) return;
  CudaExec& cuda = cuda_exec(exec);
  Product gate = make_product(args.x, args.gate, args.y);
  const PackedWeight up = packed_weight(args.up);
  if (can_fuse(gate.w, up)) {
    const Launch launch = launch_on(cuda, gate, &up, scratch_bytes(gate, 2, cuda.num_sms()));
    launch_fast_product(gate, &up, launch);
  } else {
    launch_two_products(gate, up, cuda);
  }
  check_launch("gated_linear");
}

void head_linear(Exec& exec, const HeadLinearArgs& args) {
  check_product(args.x, args.w.shape, args.y);
  CudaExec& cuda = cuda_exec(exec);
  const Product p = make_product(args.x, args.w, args.y);
  constexpr int kFewTokens = 8;  // head.cu is made for these
  if (p.m > kFewTokens && is_one_matrix(p)) {
    const Product whole = as_one_matrix(p);
    launch_fast_product(whole, nullptr,
                        launch_on(cuda, cuda.scratch(scratch_bytes(whole, 1, cuda.num_sms()))));
  } else {
    launch_head_product(p, launch_on(cuda));
  }
  check_launch("head_linear");
}

void head_linear_transposed(Exec& exec, const HeadLinearTransposedArgs& args) {
  const WeightShape& w = args.w.shape;
  NIB_CHECK(args.x.dim(2) == w.n && args.y.dim(2) == w.k && args.y.dim(0) == args.x.dim(0),
            "transposed product of x [{}, {}, {}] and w [{}, {}]", args.x.dim(0), args.x.dim(1),
            args.x.dim(2), w.n, w.k);
  CudaExec& cuda = cuda_exec(exec);
  launch_transposed_product(make_product(args.x, args.w, args.y), launch_on(cuda));
  check_launch("head_linear_transposed");
}

}  // namespace nibble::kernels::cuda
