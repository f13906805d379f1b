#include "kernels/cuda/ops.h"

#include "core/check.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/mla_cluster.h"
#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/elementwise/views.h"
#include "kernels/cuda/exec.h"

namespace nibble::kernels::cuda {
namespace {

Heads heads_of(const TensorView& t) {
  return {.data = t.f32(), .row_stride = t.stride[0], .head_stride = t.stride[1]};
}

Rebuilt rebuilt_of(const TensorView& t) {
  return {.data = t.data, .row_stride = t.stride[0], .head_stride = t.stride[1]};
}

}  // namespace

void mla_absorbed(Exec& exec, const MlaAbsorbedArgs& args) {
  const RaggedArgs& ragged = args.ragged;
  if (ragged.num_seqs == 0) return;
  const std::int64_t d_latent = args.q_latent.dim(2);
  const std::int64_t d_rope = args.q_pe.dim(2);
  const MlaLaunch launch{.q_latent = heads_of(args.q_latent),
                         .q_pe = heads_of(args.q_pe),
                         .o = heads_of(args.o),
                         .cache = entries_of(args.cache, d_latent, d_rope),
                         .num_slots = args.cache.dim(0),
                         .cu_seqlens_q = ragged.cu_seqlens_q,
                         .seq_lens = ragged.seq_lens,
                         .page_tables = ragged.page_tables,
                         .num_rows = args.q_latent.dim(0),
                         .num_seqs = ragged.num_seqs,
                         .num_heads = static_cast<std::int32_t>(args.q_latent.dim(1)),
                         .max_pages = ragged.max_pages,
                         .page_size = ragged.page_size,
                         .d_latent = static_cast<std::int32_t>(d_latent),
                         .d_rope = static_cast<std::int32_t>(d_rope),
                         .scale = args.scale};
  CudaExec& cuda = cuda_exec(exec);
  if (const auto splits = choose_mla_splits(launch)) {
    launch_mla_cluster(cuda.stream(), launch, *splits);
  } else if (mla_fast_supports(launch)) {
    launch_mla_fast(cuda.stream(), launch, cuda.num_sms(),
                    cuda.scratch(mla_fast_scratch(launch, cuda.num_sms())));
  } else {
    launch_mla_general(cuda.stream(), launch);
  }
}

void mha(Exec& exec, const MhaArgs& args) {
  const std::int64_t m = args.q_nope.dim(0);
  const std::int64_t length = args.k_pe.dim(0);
  NIB_CHECK(m <= length, "{} query rows over {} entries", m, length);
  NIB_CHECK(args.k_nope.dtype == args.v.dtype, "keys are {}, values {}", dtype_name(args.k_nope.dtype),
            dtype_name(args.v.dtype));
  const MhaLaunch launch{.q_nope = heads_of(args.q_nope),
                         .q_pe = heads_of(args.q_pe),
                         .k_nope = rebuilt_of(args.k_nope),
                         .k_pe = rows_of(args.k_pe),
                         .v = rebuilt_of(args.v),
                         .o = heads_of(args.o),
                         .is_bf16 = args.k_nope.dtype == DType::bf16,
                         .num_rows = m,
                         .length = length,
                         .num_heads = static_cast<std::int32_t>(args.q_nope.dim(1)),
                         .d_nope = static_cast<std::int32_t>(args.q_nope.dim(2)),
                         .d_rope = static_cast<std::int32_t>(args.q_pe.dim(2)),
                         .d_v = static_cast<std::int32_t>(args.v.dim(2)),
                         .scale = args.scale};
  CudaExec& cuda = cuda_exec(exec);
  if (mha_fast_supports(launch)) {
    launch_mha_fast(cuda.stream(), launch, cuda.scratch(mha_fast_scratch(launch)));
  } else {
    launch_mha_general(cuda.stream(), launch);
  }
}

// Where no fast kernel rounds them anyway, keys and values stay in float32.
DType rebuilt(std::int64_t d_nope, std::int64_t d_rope, std::int64_t d_v) {
  return mha_fast_takes(d_nope, d_rope, d_v) ? DType::bf16 : DType::f32;
}

}  // namespace nibble::kernels::cuda
