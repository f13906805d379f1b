#include <fmt/format.h>

#include <utility>

#include "core/arena.h"
#include "layers/quantized_input.h"
#include "modules/decoder.h"
#include "modules/device.h"
#include "modules/guard.h"
#include "modules/packing.h"
#include "modules/scratch.h"
#include "nibble/modules/linear.h"

namespace nibble {
namespace {

using modules::Part;
using modules::Rows64;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 20;  // of any dimension; keeps products in 64 bits

Status check_sizes(const LinearModuleConfig& c) {
  const auto check = [](const char* name, std::int64_t value) -> Status {
    if (value >= 1 && value <= kMaxSize) return {};
    return bad_input(fmt::format("{} is {}, must be from 1 to {}", name, value, kMaxSize));
  };
  NIB_TRY_STATUS(check("in_features", c.in_features));
  NIB_TRY_STATUS(check("out_features", c.out_features));
  return check("max_tokens", c.max_tokens);
}

TensorView rows(const float* data, std::int64_t m, std::int64_t width) {
  return make_view(const_cast<float*>(data), DType::f32, {m, width});
}

}  // namespace

struct LinearModule::Impl {
  Impl(std::shared_ptr<ModuleDevice> on, const LinearModuleConfig& c)
      : device(std::move(on)), config(c), weight(matrix()), up(matrix()) {}
  ~Impl() { device->forget_recorded(); }

  [[nodiscard]] kernels::Weight matrix() const {
    return {.shape = {.n = config.out_features, .k = config.in_features}};
  }
  [[nodiscard]] std::vector<kernels::Weight*> matrices() {
    if (config.gated) return {&weight, &up};
    return {&weight};
  }
  [[nodiscard]] kernels::Device& on() const { return *device->impl().device; }

  Status set_scheme(const quant::Scheme& scheme) {
    for (kernels::Weight* w : matrices()) {
      NIB_TRY_STATUS(modules::set_scheme(*w, scheme, w == &up ? "up" : "weight"));
    }
    return modules::check_room(on(), matrices(), 0);
  }

  void launch(layers::Context& ctx, std::int64_t m, const float* x, float* y) const {
    const ArenaScope scope(ctx.arena);
    const quant::ActivationFormat format = weight.shape.activations;
    const layers::QuantizedInput input(ctx, rows(x, m, config.in_features), {format},
                                       layers::QuantizedInput::Readers::fast_linears);
    const TensorView out = rows(y, m, config.out_features);
    if (config.gated) {
      ctx.table.gated_linear(ctx.exec, {.x = input.as(format), .gate = weight, .up = up, .y = out});
    } else {
      ctx.table.linear(ctx.exec, {.x = input.as(format), .w = weight, .y = out});
    }
  }

  void prepare() {
    // Addresses are not looked at.
    const std::size_t bytes = modules::count_scratch(
        on(), [&](layers::Context& ctx) { launch(ctx, config.max_tokens, nullptr, nullptr); });
    arena = Arena(bytes, on().exec().memory());
  }

  std::shared_ptr<ModuleDevice> device;
  LinearModuleConfig config;
  kernels::Weight weight;
  kernels::Weight up;
  Arena arena;
};

LinearModule::LinearModule(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LinearModule::~LinearModule() = default;

Result<std::unique_ptr<LinearModule>> LinearModule::create(std::shared_ptr<ModuleDevice> device,
                                                           const LinearModuleConfig& config,
                                                           const LinearWeights& weights) {
  return modules::guarded([&]() -> Result<std::unique_ptr<LinearModule>> {
    NIB_TRY_STATUS(check_sizes(config));
    NIB_TRY(const quant::Scheme scheme, quant::find_scheme(config.scheme));
    auto impl = std::make_unique<Impl>(std::move(device), config);
    NIB_TRY_STATUS(impl->set_scheme(scheme));
    std::vector<Part> parts{{"weight", &weights.weight, &impl->weight, config.out_features}};
    if (config.gated) parts.push_back({"up", &weights.up, &impl->up, config.out_features});
    NIB_TRY_STATUS(modules::pack(impl->on(), parts, scheme));
    impl->prepare();
    return std::unique_ptr<LinearModule>(new LinearModule(std::move(impl)));
  });
}

Result<std::unique_ptr<LinearModule>> LinearModule::create_dummy(std::shared_ptr<ModuleDevice> device,
                                                                 const LinearModuleConfig& config,
                                                                 std::uint64_t seed) {
  return modules::guarded([&]() -> Result<std::unique_ptr<LinearModule>> {
    NIB_TRY_STATUS(check_sizes(config));
    NIB_TRY(const quant::Scheme scheme, quant::find_scheme(config.scheme));
    auto impl = std::make_unique<Impl>(std::move(device), config);
    NIB_TRY_STATUS(impl->set_scheme(scheme));
    NIB_TRY_STATUS(modules::fill_dummy(impl->on(), impl->matrices(), seed));
    impl->prepare();
    return std::unique_ptr<LinearModule>(new LinearModule(std::move(impl)));
  });
}

Status LinearModule::forward(std::int32_t num_tokens, const float* x, float* y) {
  return modules::guarded([&]() -> Status {
    if (num_tokens < 0 || num_tokens > impl_->config.max_tokens) {
      return bad_input(fmt::format("{} tokens in a call; the module takes up to max_tokens = {}", num_tokens,
                                   impl_->config.max_tokens));
    }
    if (num_tokens == 0) return {};
    if (x == nullptr || y == nullptr) return bad_input("x or y is null");
    modules::run_with(impl_->on(), impl_->arena,
                      [&](layers::Context& ctx) { impl_->launch(ctx, num_tokens, x, y); });
    return {};
  });
}

Status LinearModule::forward_host(std::span<const float> x, std::span<float> y) {
  const auto in = static_cast<std::size_t>(impl_->config.in_features);
  const auto out = static_cast<std::size_t>(impl_->config.out_features);
  const std::size_t m = x.size() / in;
  if (x.size() % in != 0 || y.size() != m * out) {
    return bad_input(
        fmt::format("x has {} values and y {}, must be tokens times {} and {}", x.size(), y.size(), in, out));
  }
  if (m > static_cast<std::size_t>(impl_->config.max_tokens)) {
    return bad_input(fmt::format("{} tokens in a call; the module takes up to max_tokens = {}", m,
                                 impl_->config.max_tokens));
  }
  ModuleDevice& device = *impl_->device;
  if (device.kind() == DeviceKind::cpu) return forward(static_cast<std::int32_t>(m), x.data(), y.data());
  return modules::guarded([&]() -> Status {
    NIB_TRY(const DeviceArray x_there, device.allocate(x.size_bytes()));
    NIB_TRY(const DeviceArray y_there, device.allocate(y.size_bytes()));
    NIB_TRY_STATUS(device.upload(x_there.data(), x.data(), x.size_bytes()));
    NIB_TRY_STATUS(forward(static_cast<std::int32_t>(m), x_there.f32(), y_there.f32()));
    return device.download(y.data(), y_there.data(), y.size_bytes());
  });
}

Result<std::vector<double>> LinearModule::reference(std::span<const float> x) const {
  const std::int64_t in = impl_->config.in_features;
  if (static_cast<std::int64_t>(x.size()) % in != 0) {
    return bad_input(fmt::format("x has {} values, must be tokens times {}", x.size(), in));
  }
  return modules::guarded([&]() -> Result<std::vector<double>> {
    modules::Decoder decoder(impl_->on());
    const Rows64 input{.width = in, .values = std::vector<double>(x.begin(), x.end())};
    Rows64 y = impl_->config.gated ? modules::gated(decoder, input, impl_->weight, impl_->up, 0)
                                   : decoder.product(input, impl_->weight);
    return std::move(y.values);
  });
}

const LinearModuleConfig& LinearModule::config() const noexcept { return impl_->config; }

std::size_t LinearModule::weight_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const kernels::Weight* weight : impl_->matrices()) bytes += weight->bytes();
  return bytes;
}

}  // namespace nibble
