#include "modules/moe_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "modules/guard.h"
#include "modules/packing.h"
#include "modules/scratch.h"

namespace nibble {
namespace {

using modules::Part;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 20;  // of any dimension; keeps products in 64 bits
constexpr std::int32_t kMaxTokens = 1 << 20;

Status check_sizes(const MoeModuleConfig& c) {
  const auto check = [](const char* name, std::int64_t value, std::int64_t min, std::int64_t max) -> Status {
    if (value >= min && value <= max) return {};
    return bad_input(fmt::format("{} is {}, must be from {} to {}", name, value, min, max));
  };
  NIB_TRY_STATUS(check("hidden_size", c.hidden_size, 1, kMaxSize));
  NIB_TRY_STATUS(check("intermediate_size", c.intermediate_size, 1, kMaxSize));
  NIB_TRY_STATUS(check("shared_intermediate_size", c.shared_intermediate_size, 0, kMaxSize));
  NIB_TRY_STATUS(check("num_experts", c.num_experts, 1, 65536));
  NIB_TRY_STATUS(check("experts_per_token", c.experts_per_token, 1, c.num_experts));
  NIB_TRY_STATUS(check("max_tokens", c.max_tokens, 1, kMaxTokens));
  if (c.gate == MoeGate::none) return {};
  NIB_TRY_STATUS(check("n_group", c.n_group, 1, c.num_experts));
  NIB_TRY_STATUS(check("topk_group", c.topk_group, 1, c.n_group));
  if (c.num_experts % c.n_group != 0) {
    return bad_input(fmt::format("{} experts do not divide into {} groups", c.num_experts, c.n_group));
  }
  const std::int64_t allowed = c.num_experts / c.n_group * c.topk_group;
  if (c.experts_per_token > allowed) {
    return bad_input(fmt::format("experts_per_token is {}, but a token's groups have {} experts",
                                 c.experts_per_token, allowed));
  }
  if (c.gate == MoeGate::sigmoid && c.n_group > 1 && c.num_experts / c.n_group < 2) {
    return bad_input("groups of one expert have no two best (sigmoid gate)");
  }
  return {};
}

layers::RouterConfig router_config(const MoeModuleConfig& c) {
  const bool sigmoid = c.gate == MoeGate::sigmoid;
  return {.hidden_size = c.hidden_size,
          .n_routed_experts = c.num_experts,
          .num_experts_per_tok = c.experts_per_token,
          .scoring_func = sigmoid ? kernels::ScoringFunc::sigmoid : kernels::ScoringFunc::softmax,
          .group_score = sigmoid ? kernels::GroupScore::top2_sum : kernels::GroupScore::max,
          .n_group = c.n_group,
          .topk_group = c.topk_group,
          .norm_topk_prob = c.norm_topk_prob,
          .routed_scaling_factor = c.routed_scaling_factor,
          .has_correction_bias = c.has_correction_bias};
}

TensorView rows(const float* data, std::int64_t m, std::int64_t width) {
  return make_view(const_cast<float*>(data), DType::f32, {m, width});
}

TensorView rows(const std::int32_t* data, std::int64_t m, std::int64_t width) {
  return make_view(const_cast<std::int32_t*>(data), DType::i32, {m, width});
}

Status check_ids(std::span<const std::int32_t> ids, std::int64_t num_experts) {
  const auto bad = std::ranges::find_if(ids, [&](std::int32_t id) { return id < -1 || id >= num_experts; });
  if (bad == ids.end()) return {};
  return bad_input(
      fmt::format("expert id {} at {}: ids are -1 or in [0, {})", *bad, bad - ids.begin(), num_experts));
}

// The schemes' formats for every matrix, the router's as its weights come.
Status set_schemes(MoeModule::Impl& impl, const quant::Scheme& routed, const quant::Scheme& shared,
                   quant::WeightFormat router) {
  NIB_TRY_STATUS(modules::set_scheme(impl.experts.gate_proj(), routed, "gate_proj"));
  NIB_TRY_STATUS(modules::set_scheme(impl.experts.up_proj(), routed, "up_proj"));
  NIB_TRY_STATUS(modules::set_scheme(impl.experts.down_proj(), routed, "down_proj"));
  if (impl.shared) {
    NIB_TRY_STATUS(modules::set_scheme(impl.shared->gate_proj(), shared, "shared_gate_proj"));
    NIB_TRY_STATUS(modules::set_scheme(impl.shared->up_proj(), shared, "shared_up_proj"));
    NIB_TRY_STATUS(modules::set_scheme(impl.shared->down_proj(), shared, "shared_down_proj"));
  }
  if (impl.gate) impl.gate->weight().shape.format = router;
  return {};
}

Result<quant::Scheme> shared_scheme(const MoeModuleConfig& config) {
  return quant::find_scheme(config.shared_scheme.empty() ? config.scheme : config.shared_scheme);
}

Status pack_weights(MoeModule::Impl& impl, const MoeWeights& w, const quant::Scheme& routed,
                    const quant::Scheme& shared, const quant::Scheme& router) {
  kernels::Device& device = *impl.device->impl().device;
  const std::int64_t hidden = impl.config.hidden_size;
  const std::int64_t inner = impl.config.intermediate_size;
  const std::array gate_up{Part{"gate_proj", &w.gate_proj, &impl.experts.gate_proj(), inner},
                           Part{"up_proj", &w.up_proj, &impl.experts.up_proj(), inner}};
  const std::array down{Part{"down_proj", &w.down_proj, &impl.experts.down_proj(), hidden}};
  NIB_TRY_STATUS(modules::pack(device, gate_up, routed));
  NIB_TRY_STATUS(modules::pack(device, down, routed));
  if (impl.shared) {
    const std::int64_t wide = impl.config.shared_intermediate_size;
    const std::array shared_gate_up{
        Part{"shared_gate_proj", &w.shared_gate_proj, &impl.shared->gate_proj(), wide},
        Part{"shared_up_proj", &w.shared_up_proj, &impl.shared->up_proj(), wide}};
    const std::array shared_down{
        Part{"shared_down_proj", &w.shared_down_proj, &impl.shared->down_proj(), hidden}};
    NIB_TRY_STATUS(modules::pack(device, shared_gate_up, shared));
    NIB_TRY_STATUS(modules::pack(device, shared_down, shared));
  }
  if (!impl.gate) return {};
  const std::array gate{Part{"router", &w.router, &impl.gate->weight(), impl.config.num_experts}};
  NIB_TRY_STATUS(modules::pack(device, gate, router));
  if (!impl.config.has_correction_bias) return {};
  return modules::place(device, impl.gate->correction_bias(), w.correction_bias, "correction_bias");
}

}  // namespace

MoeModule::Impl::Impl(std::shared_ptr<ModuleDevice> on, const MoeModuleConfig& c)
    : device(std::move(on)),
      config(c),
      id(device->impl().next_module++),
      experts(c.num_experts, c.hidden_size, c.intermediate_size) {
  if (c.gate != MoeGate::none) gate.emplace(router_config(c));
  if (c.shared_intermediate_size > 0) shared.emplace(c.hidden_size, c.shared_intermediate_size);
}

MoeModule::Impl::~Impl() { device->forget_recorded(); }

std::vector<kernels::Weight*> MoeModule::Impl::matrices() {
  std::vector<kernels::Weight*> all{&experts.gate_proj(), &experts.up_proj(), &experts.down_proj()};
  if (shared) all.insert(all.end(), {&shared->gate_proj(), &shared->up_proj(), &shared->down_proj()});
  if (gate) all.push_back(&gate->weight());
  return all;
}

void MoeModule::Impl::launch(layers::Context& ctx, const Call& call) const {
  const ArenaScope scope(ctx.arena);
  const std::int64_t m = call.num_tokens;
  const TensorView x = rows(call.x, m, config.hidden_size);
  const TensorView y = rows(call.y, m, config.hidden_size);
  const quant::ActivationFormat shared_format =
      shared ? shared->activations() : quant::ActivationFormat::none;
  const layers::QuantizedInput input(ctx, x, {experts.activations(), shared_format});
  TensorView ids = rows(call.ids, m, config.experts_per_token);
  TensorView weights = rows(call.weights, m, config.experts_per_token);
  if (call.ids == nullptr) {
    ids = ctx.arena.tensor(DType::i32, {m, config.experts_per_token});
    weights = ctx.arena.tensor(DType::f32, {m, config.experts_per_token});
  }
  const auto choose = [&] {
    if (call.ids == nullptr) route(ctx, x, ids, weights);
  };
  if (!shared) {
    choose();
    return experts.forward_add(ctx, input, ids, weights, y);
  }
  const TensorView out = ctx.arena.tensor(DType::f32, {m, config.hidden_size});
  const auto run_shared = [&] { shared->forward(ctx, input, out); };
  ctx.run_concurrently(run_shared, choose);
  experts.forward_add(ctx, input, ids, weights, out);
  ctx.table.add(ctx.exec, {.x = y, .y = out});
}

void MoeModule::Impl::route(layers::Context& ctx, TensorView x, TensorView ids, TensorView weights) const {
  gate->forward(ctx, x, ids, weights);
}

Status MoeModule::Impl::prepare() {
  kernels::Device& on = *device->impl().device;
  // Addresses are not looked at.
  const Call largest{
      .num_tokens = config.max_tokens, .x = nullptr, .ids = nullptr, .weights = nullptr, .y = nullptr};
  const std::size_t bytes = modules::count_scratch(on, [&](layers::Context& ctx) {
    if (gate) return launch(ctx, largest);
    Call routed = largest;
    const std::int32_t somewhere = 0;
    routed.ids = &somewhere;
    launch(ctx, routed);
  });
  arena = Arena(bytes, on.exec().memory());
  return {};
}

Status MoeModule::Impl::check(const Call& call) const {
  if (call.num_tokens < 0 || call.num_tokens > config.max_tokens) {
    return bad_input(fmt::format("{} tokens in a call; the module takes up to max_tokens = {}",
                                 call.num_tokens, config.max_tokens));
  }
  if (call.num_tokens == 0) return {};
  const bool routed = call.ids != nullptr && call.weights != nullptr;
  if (call.x == nullptr || call.y == nullptr || (!routed && !gate)) {
    return bad_input(routed || gate ? "x or y is null"
                                    : "the module has no gate: give expert ids and their weights");
  }
  if (!routed || !device->impl().memory().is_host()) return {};
  return check_ids({call.ids, static_cast<std::size_t>(call.num_tokens * config.experts_per_token)},
                   config.num_experts);
}

MoeModule::MoeModule(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MoeModule::~MoeModule() = default;

Result<std::unique_ptr<MoeModule>> MoeModule::create(std::shared_ptr<ModuleDevice> device,
                                                     const MoeModuleConfig& config,
                                                     const MoeWeights& weights) {
  return modules::guarded([&]() -> Result<std::unique_ptr<MoeModule>> {
    NIB_TRY_STATUS(check_sizes(config));
    NIB_TRY(const quant::Scheme routed, quant::find_scheme(config.scheme));
    NIB_TRY(const quant::Scheme shared, shared_scheme(config));
    const quant::Scheme router{.weights = weights.router.f32.empty() ? quant::WeightFormat::bf16
                                                                     : quant::WeightFormat::f32};
    auto impl = std::make_unique<Impl>(std::move(device), config);
    NIB_TRY_STATUS(set_schemes(*impl, routed, shared, router.weights));
    NIB_TRY_STATUS(modules::check_room(*impl->device->impl().device, impl->matrices(), 0));
    NIB_TRY_STATUS(pack_weights(*impl, weights, routed, shared, router));
    NIB_TRY_STATUS(impl->prepare());
    return std::unique_ptr<MoeModule>(new MoeModule(std::move(impl)));
  });
}

Result<std::unique_ptr<MoeModule>> MoeModule::create_dummy(std::shared_ptr<ModuleDevice> device,
                                                           const MoeModuleConfig& config,
                                                           std::uint64_t seed) {
  return modules::guarded([&]() -> Result<std::unique_ptr<MoeModule>> {
    NIB_TRY_STATUS(check_sizes(config));
    NIB_TRY(const quant::Scheme routed, quant::find_scheme(config.scheme));
    NIB_TRY(const quant::Scheme shared, shared_scheme(config));
    auto impl = std::make_unique<Impl>(std::move(device), config);
    kernels::Device& on = *impl->device->impl().device;
    NIB_TRY_STATUS(set_schemes(*impl, routed, shared, quant::WeightFormat::bf16));
    NIB_TRY_STATUS(modules::check_room(on, impl->matrices(), 0));
    NIB_TRY_STATUS(modules::fill_dummy(on, impl->matrices(), seed));
    if (impl->gate && config.has_correction_bias) {
      modules::place_constant(on, impl->gate->correction_bias(), 0.0F);
    }
    NIB_TRY_STATUS(impl->prepare());
    return std::unique_ptr<MoeModule>(new MoeModule(std::move(impl)));
  });
}

Status MoeModule::forward_add(std::int32_t num_tokens, const float* x, float* y) {
  return forward_add(num_tokens, x, nullptr, nullptr, y);
}

Status MoeModule::forward_add(std::int32_t num_tokens, const float* x, const std::int32_t* ids,
                              const float* weights, float* y) {
  return modules::guarded([&]() -> Status {
    const Impl::Call call{num_tokens, x, ids, weights, y};
    NIB_TRY_STATUS(impl_->check(call));
    if (num_tokens == 0) return {};
    ModuleDevice::Impl& device = impl_->device->impl();
    const auto launch = [&] {
      modules::run_with(*device.device, impl_->arena,
                        [&](layers::Context& ctx) { impl_->launch(ctx, call); });
    };
    if (num_tokens > kMaxRecordedTokens) {
      launch();
    } else {
      device.run({.module = impl_->id,
                  .shape = static_cast<std::uint64_t>(num_tokens),
                  .addresses = {x, ids, weights, y}},
                 launch);
    }
    return {};
  });
}

Status MoeModule::route(std::int32_t num_tokens, const float* x, std::int32_t* ids, float* weights) {
  return modules::guarded([&]() -> Status {
    if (!impl_->gate) return bad_input("the module has no gate");
    if (ids == nullptr || weights == nullptr) return bad_input("ids or weights is null");
    NIB_TRY_STATUS(impl_->check({num_tokens, x, nullptr, nullptr, weights}));
    if (num_tokens == 0) return {};
    const std::int64_t topk = impl_->config.experts_per_token;
    modules::run_with(*impl_->device->impl().device, impl_->arena, [&](layers::Context& ctx) {
      impl_->route(ctx, rows(x, num_tokens, impl_->config.hidden_size), rows(ids, num_tokens, topk),
                   rows(weights, num_tokens, topk));
    });
    return {};
  });
}

Status MoeModule::forward_add_host(std::span<const float> x, std::span<float> y) {
  return impl_->run_host(x, {}, {}, y, *this);
}

Status MoeModule::forward_add_host(std::span<const float> x, std::span<const std::int32_t> ids,
                                   std::span<const float> weights, std::span<float> y) {
  if (ids.empty() && !x.empty()) return bad_input("expert ids are missing");
  return impl_->run_host(x, ids, weights, y, *this);
}

Status MoeModule::Impl::run_host(std::span<const float> x, std::span<const std::int32_t> ids,
                                 std::span<const float> weights, std::span<float> y, MoeModule& module) {
  const auto hidden = static_cast<std::size_t>(config.hidden_size);
  const std::size_t m = x.size() / hidden;
  const std::size_t routes = m * static_cast<std::size_t>(config.experts_per_token);
  if (x.size() % hidden != 0 || y.size() != x.size()) {
    return bad_input(fmt::format("x has {} values and y {}, must both be tokens times hidden_size = {}",
                                 x.size(), y.size(), hidden));
  }
  if (ids.size() != weights.size() || (!ids.empty() && ids.size() != routes)) {
    return bad_input(fmt::format("{} expert ids and {} weights for {} tokens of {} experts", ids.size(),
                                 weights.size(), m, config.experts_per_token));
  }
  if (m > static_cast<std::size_t>(config.max_tokens)) {
    return bad_input(
        fmt::format("{} tokens in a call; the module takes up to max_tokens = {}", m, config.max_tokens));
  }
  NIB_TRY_STATUS(check_ids(ids, config.num_experts));
  const auto tokens = static_cast<std::int32_t>(m);
  if (device->kind() == DeviceKind::cpu) {
    return module.forward_add(tokens, x.data(), ids.data(), weights.data(), y.data());
  }
  return modules::guarded([&]() -> Status {
    NIB_TRY(const DeviceArray there,
            device->allocate(2 * x.size_bytes() + ids.size_bytes() + weights.size_bytes()));
    float* const x_there = there.f32();
    float* const y_there = x_there + x.size();
    float* const weights_there = y_there + y.size();
    auto* const ids_there = reinterpret_cast<std::int32_t*>(weights_there + weights.size());
    NIB_TRY_STATUS(device->upload(x_there, x.data(), x.size_bytes()));
    NIB_TRY_STATUS(device->upload(y_there, y.data(), y.size_bytes()));
    NIB_TRY_STATUS(device->upload(weights_there, weights.data(), weights.size_bytes()));
    NIB_TRY_STATUS(device->upload(ids_there, ids.data(), ids.size_bytes()));
    // Not recorded: the addresses are this call's alone.
    const Call call{tokens, x_there, ids.empty() ? nullptr : ids_there, ids.empty() ? nullptr : weights_there,
                    y_there};
    NIB_TRY_STATUS(check(call));
    if (m > 0) {
      modules::run_with(*device->impl().device, arena, [&](layers::Context& ctx) { launch(ctx, call); });
    }
    return device->download(y.data(), y_there, y.size_bytes());
  });
}

const MoeModuleConfig& MoeModule::config() const noexcept { return impl_->config; }

std::size_t MoeModule::weight_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const kernels::Weight* weight : impl_->matrices()) bytes += weight->bytes();
  return bytes;
}

std::size_t MoeModule::expert_bytes() const noexcept {
  layers::FusedMoe& experts = impl_->experts;
  const std::size_t bytes =
      experts.gate_proj().bytes() + experts.up_proj().bytes() + experts.down_proj().bytes();
  return bytes / static_cast<std::size_t>(impl_->config.num_experts);
}

}  // namespace nibble
