// What MoeModule's files share.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/arena.h"
#include "layers/fused_moe.h"
#include "layers/gated_mlp.h"
#include "layers/router.h"
#include "modules/device.h"
#include "nibble/modules/moe.h"

namespace nibble {

struct MoeModule::Impl {
  Impl(std::shared_ptr<ModuleDevice> on, const MoeModuleConfig& c);
  ~Impl();

  struct Call {
    std::int32_t num_tokens;
    const float* x;
    const std::int32_t* ids;  // null: the gate chooses
    const float* weights;
    float* y;
  };
  [[nodiscard]] Status check(const Call& call) const;
  void launch(layers::Context& ctx, const Call& call) const;
  void route(layers::Context& ctx, TensorView x, TensorView ids, TensorView weights) const;
  // Scratch, and what the calls in host memory need on a GPU.
  Status prepare();
  Status run_host(std::span<const float> x, std::span<const std::int32_t> ids, std::span<const float> weights,
                  std::span<float> y, MoeModule& module);
  [[nodiscard]] std::vector<kernels::Weight*> matrices();

  std::shared_ptr<ModuleDevice> device;
  MoeModuleConfig config;
  std::uint64_t id;
  std::optional<layers::Router> gate;
  layers::FusedMoe experts;
  std::optional<layers::GatedMlp> shared;
  Arena arena;
};

}  // namespace nibble
