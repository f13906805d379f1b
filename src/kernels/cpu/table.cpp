#include "kernels/cpu/table.h"

#include "kernels/cpu/attention.h"
#include "kernels/cpu/avx2/tier.h"
#include "kernels/cpu/avx512/tier.h"
#include "kernels/cpu/avx512_bf16/tier.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/moe.h"
#include "kernels/ref/table.h"

namespace nibble::kernels::cpu {
namespace {

// A table row must be a plain function; Get names the tier at compile time.
template <const Tier& (*Get)()>
void overlay(KernelTable& t) {
  t.linear = [](Exec& exec, const LinearArgs& a) { linear(Get(), exec, a); };
  t.linear_pair = [](Exec& exec, const LinearPairArgs& a) {
    linear(Get(), exec, {.x = a.x, .w = a.first, .y = a.first_y});
    linear(Get(), exec, {.x = a.x, .w = a.second, .y = a.second_y});
  };
  t.gated_linear = [](Exec& exec, const GatedLinearArgs& a) { gated_linear(Get(), exec, a); };
  t.head_linear = [](Exec& exec, const HeadLinearArgs& a) { head_linear(Get(), exec, a); };
  t.head_linear_transposed = [](Exec& exec, const HeadLinearTransposedArgs& a) {
    head_linear_transposed(Get(), exec, a);
  };
  t.topk_gate = [](Exec& exec, const TopkGateArgs& a) {
    TopkGateArgs choice = a;
    if (a.gate != nullptr) {
      linear(Get(), exec, {.x = a.x, .w = *a.gate, .y = a.logits, .precision = Precision::exact});
      choice.gate = nullptr;
    }
    ref::kernels().topk_gate(exec, choice);
  };
  t.fused_moe = [](Exec& exec, const FusedMoeArgs& a) { fused_moe(Get(), exec, a); };
  t.mla_absorbed = [](Exec& exec, const MlaAbsorbedArgs& a) { mla_absorbed(Get(), exec, a); };
  t.mha = [](Exec& exec, const MhaArgs& a) { mha(Get(), exec, a); };
  t.rms_norm = [](Exec& exec, const RmsNormArgs& a) {
    const auto row = [&](std::int64_t i, int) {
      float* x = a.x.f32() + i * a.x.stride[0];
      if (a.add.rank != 0) {
        const float* add = a.add.f32() + i * a.add.stride[0];
        for (std::int64_t j = 0; j < a.x.dim(1); ++j) x[j] += add[j];
      }
      Get().rms_norm(x, a.weight, a.eps, a.y.f32() + i * a.y.stride[0], a.x.dim(1));
    };
    // A few rows take less time than waking the team.
    if (a.x.dim(0) <= 4) {
      for (std::int64_t i = 0; i < a.x.dim(0); ++i) row(i, 0);
    } else {
      exec.threads().parallel_for(a.x.dim(0), row);
    }
  };
}

}  // namespace

const Tier* find_tier(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::scalar: break;
    case CpuIsa::avx2: return &avx2::tier();
    case CpuIsa::avx512: return &avx512::tier();
    case CpuIsa::avx512_bf16: return &avx512_bf16::tier();
  }
  return nullptr;
}

KernelTable table(CpuIsa isa) {
  KernelTable t = ref::kernels();
  switch (isa) {
    case CpuIsa::scalar: break;
    case CpuIsa::avx2: overlay<avx2::tier>(t); break;
    case CpuIsa::avx512: overlay<avx512::tier>(t); break;
    case CpuIsa::avx512_bf16: overlay<avx512_bf16::tier>(t); break;
  }
  return t;
}

}  // namespace nibble::kernels::cpu
