#include "modules/mla_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/device_options.h"
#include "kernels/cache_layout.h"
#include "modules/guard.h"
#include "modules/packing.h"
#include "modules/scratch.h"

namespace nibble {
namespace {

using modules::Part;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 20;
constexpr std::int32_t kMaxTokens = 1 << 24;
constexpr std::int64_t kMaxPages = 1 << 24;

Status check_between(const char* name, std::int64_t value, std::int64_t min, std::int64_t max) {
  if (value >= min && value <= max) return {};
  return bad_input(fmt::format("{} is {}, must be from {} to {}", name, value, min, max));
}

Status check_sizes(const MlaModuleConfig& c) {
  NIB_TRY_STATUS(check_between("hidden_size", c.hidden_size, 1, kMaxSize));
  NIB_TRY_STATUS(check_between("num_heads", c.num_heads, 1, 4096));
  NIB_TRY_STATUS(check_between("q_lora_rank", c.q_lora_rank, 0, kMaxSize));
  NIB_TRY_STATUS(check_between("kv_lora_rank", c.kv_lora_rank, 1, 65536));
  NIB_TRY_STATUS(check_between("qk_nope_head_dim", c.qk_nope_head_dim, 1, 65536));
  NIB_TRY_STATUS(check_between("qk_rope_head_dim", c.qk_rope_head_dim, 2, 65536));
  NIB_TRY_STATUS(check_between("v_head_dim", c.v_head_dim, 1, 65536));
  if (c.qk_rope_head_dim % 2 != 0) {
    return bad_input(
        fmt::format("qk_rope_head_dim is {}, must be even: rope turns pairs", c.qk_rope_head_dim));
  }
  NIB_TRY_STATUS(check_between("page_size", c.page_size, 1, 4096));
  NIB_TRY_STATUS(check_between("max_sequences", c.max_sequences, 1, 65536));
  NIB_TRY_STATUS(check_between("max_length", c.max_length, 1, kMaxTokens));
  NIB_TRY_STATUS(check_between("max_tokens", c.max_tokens, 1, kMaxTokens));
  NIB_TRY_STATUS(
      check_between("cache_tokens", c.cache_tokens, 0, std::numeric_limits<std::int32_t>::max() / 2));
  const bool good_theta = std::isfinite(c.rope_theta) && c.rope_theta > 1.0;
  if (!good_theta) return bad_input(fmt::format("rope_theta is {}, must be over 1", c.rope_theta));
  const bool good_eps = std::isfinite(c.norm_eps) && c.norm_eps >= 0.0F;
  if (!good_eps) return bad_input(fmt::format("norm_eps is {}, must be at least 0", c.norm_eps));
  const bool good_scale = std::isfinite(c.softmax_scale) && c.softmax_scale >= 0.0F;
  if (!good_scale) return bad_input(fmt::format("softmax_scale is {}, must be at least 0", c.softmax_scale));
  return {};
}

Status check_yarn(const YarnScaling& y) {
  const bool good = std::isfinite(y.factor) && y.factor > 0 && std::isfinite(y.beta_fast) &&
                    y.beta_fast > 0 && std::isfinite(y.beta_slow) && y.beta_slow > 0 &&
                    std::isfinite(y.mscale) && std::isfinite(y.mscale_all_dim) &&
                    y.original_max_position_embeddings > 0;
  if (good) return {};
  return bad_input(
      fmt::format("yarn: factor {}, beta_fast {}, beta_slow {} and original_max_position_embeddings {} "
                  "must be over 0, everything finite",
                  y.factor, y.beta_fast, y.beta_slow, y.original_max_position_embeddings));
}

Result<MlaSettings> settings_of(const MlaModuleConfig& c, DeviceKind device) {
  NIB_TRY_STATUS(check_sizes(c));
  MlaSettings s;
  NIB_TRY(s.cache_dtype, engine::parse_cache_dtype(c.cache_dtype, device, "cache_dtype"));
  s.rope = {.dim = c.qk_rope_head_dim, .theta = c.rope_theta};
  if (c.yarn) {
    NIB_TRY_STATUS(check_yarn(*c.yarn));
    s.rope.yarn =
        layers::YarnConfig{.factor = c.yarn->factor,
                           .beta_fast = c.yarn->beta_fast,
                           .beta_slow = c.yarn->beta_slow,
                           .mscale = c.yarn->mscale,
                           .mscale_all_dim = c.yarn->mscale_all_dim,
                           .original_max_position_embeddings = c.yarn->original_max_position_embeddings};
  }
  s.attention = {.hidden_size = c.hidden_size,
                 .num_attention_heads = c.num_heads,
                 .q_lora_rank = c.q_lora_rank,
                 .kv_lora_rank = c.kv_lora_rank,
                 .qk_nope_head_dim = c.qk_nope_head_dim,
                 .qk_rope_head_dim = c.qk_rope_head_dim,
                 .v_head_dim = c.v_head_dim,
                 .softmax_scale = c.softmax_scale,
                 .norm_eps = c.norm_eps};
  if (c.softmax_scale == 0.0F) {
    s.attention.softmax_scale = static_cast<float>(layers::yarn_softmax_factor(s.rope) /
                                                   std::sqrt(static_cast<double>(s.attention.qk_head_dim())));
  }
  const auto pages_of = [&](std::int64_t tokens) { return (tokens + c.page_size - 1) / c.page_size; };
  const std::int64_t pages =
      c.cache_tokens > 0 ? pages_of(c.cache_tokens) : std::int64_t{c.max_sequences} * pages_of(c.max_length);
  if (pages * c.page_size > std::numeric_limits<std::int32_t>::max()) {
    return bad_input(
        fmt::format("a cache of {} pages of {} tokens; 2^31 tokens are the most", pages, c.page_size));
  }
  if (pages > kMaxPages) {
    return bad_input(fmt::format("a cache of {} pages; {} are the most: use a larger page_size than {}",
                                 pages, kMaxPages, c.page_size));
  }
  s.num_pages = static_cast<std::int32_t>(pages);
  return s;
}

Status set_schemes(MlaModule::Impl& impl, const quant::Scheme& scheme) {
  layers::MlaWeights& w = impl.attention.weights();
  if (w.q_proj) NIB_TRY_STATUS(modules::set_scheme(w.q_proj->weight(), scheme, "q_proj"));
  if (w.q_a_proj) NIB_TRY_STATUS(modules::set_scheme(w.q_a_proj->weight(), scheme, "q_a_proj"));
  if (w.q_b_proj) NIB_TRY_STATUS(modules::set_scheme(w.q_b_proj->weight(), scheme, "q_b_proj"));
  NIB_TRY_STATUS(modules::set_scheme(w.kv_a_proj_with_mqa.weight(), scheme, "kv_a_proj_with_mqa"));
  NIB_TRY_STATUS(modules::set_scheme(w.w_uk, scheme, "kv_b_proj"));
  NIB_TRY_STATUS(modules::set_scheme(w.w_uv, scheme, "kv_b_proj"));
  return modules::set_scheme(w.o_proj.weight(), scheme, "o_proj");
}

Status pack_weights(MlaModule::Impl& impl, const MlaWeights& given, const quant::Scheme& scheme) {
  kernels::Device& device = *impl.device->impl().device;
  const MlaModuleConfig& c = impl.config;
  layers::MlaWeights& w = impl.attention.weights();
  const auto pack = [&](const char* name, const HostMatrix& matrix, kernels::Weight& weight) {
    const std::array part{Part{name, &matrix, &weight, weight.shape.n}};
    return modules::pack(device, part, scheme);
  };
  if (w.q_proj) {
    NIB_TRY_STATUS(pack("q_proj", given.q_proj, w.q_proj->weight()));
  } else {
    NIB_TRY_STATUS(pack("q_a_proj", given.q_a_proj, w.q_a_proj->weight()));
    NIB_TRY_STATUS(modules::place(device, w.q_a_layernorm->weight(), given.q_a_layernorm, "q_a_layernorm"));
    NIB_TRY_STATUS(pack("q_b_proj", given.q_b_proj, w.q_b_proj->weight()));
  }
  NIB_TRY_STATUS(pack("kv_a_proj_with_mqa", given.kv_a_proj_with_mqa, w.kv_a_proj_with_mqa.weight()));
  NIB_TRY_STATUS(modules::place(device, w.kv_a_layernorm.weight(), given.kv_a_layernorm, "kv_a_layernorm"));
  // Per head first W_UK's rows, then W_UV's.
  const std::int64_t head_rows = c.qk_nope_head_dim + c.v_head_dim;
  const std::array kv_b{Part{"kv_b_proj", &given.kv_b_proj, &w.w_uk, head_rows},
                        Part{"kv_b_proj", &given.kv_b_proj, &w.w_uv, head_rows, c.qk_nope_head_dim}};
  NIB_TRY_STATUS(modules::pack(device, kv_b, scheme));
  return pack("o_proj", given.o_proj, w.o_proj.weight());
}

}  // namespace

MlaModule::Impl::Impl(std::shared_ptr<ModuleDevice> on, const MlaModuleConfig& c, const MlaSettings& s)
    : device(std::move(on)),
      config(c),
      settings(s),
      id(device->impl().next_module++),
      attention(s.attention),
      rope(s.rope),
      pool(s.num_pages, c.page_size),
      // A caller's x and y have no rows for padding.
      device_batch(device->impl().exec(), 0, kStepsAhead) {}

MlaModule::Impl::~Impl() { device->forget_recorded(); }

std::vector<kernels::Weight*> MlaModule::Impl::matrices() {
  layers::MlaWeights& w = attention.weights();
  std::vector<kernels::Weight*> all;
  if (w.q_proj) all.push_back(&w.q_proj->weight());
  if (w.q_a_proj) all.push_back(&w.q_a_proj->weight());
  if (w.q_b_proj) all.push_back(&w.q_b_proj->weight());
  all.insert(all.end(), {&w.kv_a_proj_with_mqa.weight(), &w.w_uk, &w.w_uv, &w.o_proj.weight()});
  return all;
}

void MlaModule::Impl::launch(layers::Context& ctx, const layers::ForwardBatch& batch, const float* x,
                             float* y) const {
  const std::int64_t m = batch.num_tokens();
  attention.forward(ctx, batch, rope, cache, config.page_size,
                    make_view(const_cast<float*>(x), DType::f32, {m, config.hidden_size}),
                    make_view(y, DType::f32, {m, config.hidden_size}));
}

// `num_seqs` sequences share `num_tokens` evenly; each ends at max_length.
std::size_t MlaModule::Impl::count_scratch(std::int32_t num_seqs, std::int32_t num_tokens) const {
  const std::vector<engine::PageId> pages(static_cast<std::size_t>(pool.pages_for(config.max_length)), 0);
  std::vector<modules::StepItem> items;
  for (std::int32_t i = 0; i < num_seqs; ++i) {
    const std::int32_t count =
        std::min(num_tokens / num_seqs + (i < num_tokens % num_seqs ? 1 : 0), config.max_length);
    if (count > 0) items.push_back({.begin = config.max_length - count, .count = count, .pages = pages});
  }
  modules::StepArrays step;
  const layers::ForwardBatch batch = step.build(items, config.page_size, config.mode);
  return modules::count_scratch(*device->impl().device,
                                [&](layers::Context& ctx) { launch(ctx, batch, nullptr, nullptr); });
}

std::int64_t MlaModule::Impl::cache_width() const {
  return kernels::cache_width(settings.cache_dtype, config.kv_lora_rank, config.qk_rope_head_dim);
}

std::size_t MlaModule::Impl::cache_bytes() const {
  const std::int64_t slots = std::int64_t{settings.num_pages} * config.page_size;
  return static_cast<std::size_t>(slots * cache_width() * dtype_bits(settings.cache_dtype) / 8);
}

Status MlaModule::Impl::prepare() {
  ModuleDevice::Impl& on = device->impl();
  const std::size_t bytes = cache_bytes();
  try {
    cache_memory = on.memory().allocate(bytes);
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("no memory for a cache of {} pages of {} tokens ({} bytes); lower cache_tokens, "
                    "max_sequences or max_length",
                    settings.num_pages, config.page_size, bytes));
  }
  cache = make_view(cache_memory.data(), settings.cache_dtype,
                    {std::int64_t{settings.num_pages} * config.page_size, cache_width()});
  rope.build_tables(config.max_length, on.exec());
  const std::int32_t most_seqs = std::min(config.max_sequences, config.max_tokens);
  std::size_t scratch = 0;
  for (const auto& [seqs, tokens] :
       {std::pair{1, config.max_tokens}, {most_seqs, config.max_tokens}, {most_seqs, most_seqs}}) {
    scratch = std::max(scratch, count_scratch(seqs, tokens));
  }
  try {
    arena = Arena(scratch, on.memory());
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("no memory for {} bytes of scratch; lower max_tokens or max_length", scratch));
  }
  return {};
}

Result<MlaModule::Impl::Sequence*> MlaModule::Impl::find(SequenceId sequence) {
  const auto it = sequences.find(sequence);
  if (it != sequences.end()) return &it->second;
  return bad_input(fmt::format("there is no sequence {} (of {} in the cache)", sequence, sequences.size()));
}

Status MlaModule::Impl::check_step(std::span<const MlaChunk> chunks, Step& step) {
  std::int64_t total = 0;
  for (const MlaChunk& chunk : chunks) {
    NIB_TRY(Sequence* const sequence, find(chunk.sequence));
    if (std::ranges::find(step.sequences, sequence) != step.sequences.end()) {
      return bad_input(fmt::format("sequence {} is in the step twice", chunk.sequence));
    }
    if (chunk.num_tokens < 1) {
      return bad_input(
          fmt::format("{} tokens of sequence {}; at least one is needed", chunk.num_tokens, chunk.sequence));
    }
    total += chunk.num_tokens;
    step.sequences.push_back(sequence);
  }
  if (total > config.max_tokens) {
    return bad_input(
        fmt::format("{} tokens in a step; the module takes up to max_tokens = {}", total, config.max_tokens));
  }
  step.num_tokens = static_cast<std::int32_t>(total);
  return {};
}

Status MlaModule::Impl::take_pages(std::span<const MlaChunk> chunks, Step& step) {
  std::int64_t missing = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const Sequence& sequence = *step.sequences[i];
    if (chunks[i].num_tokens > config.max_length - sequence.length) {
      return bad_input(fmt::format("sequence {} has {} tokens and gets {} more; max_length is {}",
                                   chunks[i].sequence, sequence.length, chunks[i].num_tokens,
                                   config.max_length));
    }
    const std::int64_t pages = pool.pages_for(sequence.length + chunks[i].num_tokens);
    missing += std::max<std::int64_t>(0, pages - static_cast<std::int64_t>(sequence.pages.size()));
  }
  if (missing > pool.num_free()) {
    return out_of_memory(
        fmt::format("the step needs {} pages of the cache, {} of {} are free; free sequences or "
                    "raise cache_tokens",
                    missing, pool.num_free(), pool.num_pages()));
  }
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    NIB_CHECK(pool.grow(sequence.pages, sequence.length + chunks[i].num_tokens),
              "pages were counted as free");
    step.items.push_back({sequence.length, chunks[i].num_tokens, sequence.pages});
  }
  return {};
}

Result<MlaModule::Impl::Step> MlaModule::Impl::begin_step(std::span<const MlaChunk> chunks) {
  Step step;
  NIB_TRY_STATUS(check_step(chunks, step));
  NIB_TRY_STATUS(take_pages(chunks, step));
  return step;
}

void MlaModule::Impl::run(const Step& step, const float* x, float* y, bool record) {
  ModuleDevice::Impl& on = device->impl();
  const layers::ForwardBatch batch =
      device_batch.place(arrays.build(step.items, config.page_size, config.mode));
  const auto work = [&] {
    modules::run_with(*on.device, arena, [&](layers::Context& ctx) { launch(ctx, batch, x, y); });
  };
  const std::uint64_t shape = device_batch.record_key();
  if (shape == 0 || !record) {
    work();
  } else {
    on.run({.module = id, .shape = shape, .addresses = {x, y}}, work);
  }
  for (std::size_t i = 0; i < step.items.size(); ++i) step.sequences[i]->length += step.items[i].count;
}

MlaModule::MlaModule(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MlaModule::~MlaModule() = default;

Result<std::unique_ptr<MlaModule>> MlaModule::create(std::shared_ptr<ModuleDevice> device,
                                                     const MlaModuleConfig& config,
                                                     const MlaWeights& weights) {
  return modules::guarded([&]() -> Result<std::unique_ptr<MlaModule>> {
    NIB_TRY(const MlaSettings settings, settings_of(config, device->kind()));
    NIB_TRY(const quant::Scheme scheme, quant::find_scheme(config.scheme));
    auto impl = std::make_unique<Impl>(std::move(device), config, settings);
    NIB_TRY_STATUS(set_schemes(*impl, scheme));
    NIB_TRY_STATUS(modules::check_room(*impl->device->impl().device, impl->matrices(), impl->cache_bytes()));
    NIB_TRY_STATUS(pack_weights(*impl, weights, scheme));
    NIB_TRY_STATUS(impl->prepare());
    return std::unique_ptr<MlaModule>(new MlaModule(std::move(impl)));
  });
}

Result<std::unique_ptr<MlaModule>> MlaModule::create_dummy(std::shared_ptr<ModuleDevice> device,
                                                           const MlaModuleConfig& config,
                                                           std::uint64_t seed) {
  return modules::guarded([&]() -> Result<std::unique_ptr<MlaModule>> {
    NIB_TRY(const MlaSettings settings, settings_of(config, device->kind()));
    NIB_TRY(const quant::Scheme scheme, quant::find_scheme(config.scheme));
    auto impl = std::make_unique<Impl>(std::move(device), config, settings);
    kernels::Device& on = *impl->device->impl().device;
    NIB_TRY_STATUS(set_schemes(*impl, scheme));
    NIB_TRY_STATUS(modules::check_room(on, impl->matrices(), impl->cache_bytes()));
    NIB_TRY_STATUS(modules::fill_dummy(on, impl->matrices(), seed));
    layers::MlaWeights& w = impl->attention.weights();
    if (w.q_a_layernorm) modules::place_constant(on, w.q_a_layernorm->weight(), 1.0F);
    modules::place_constant(on, w.kv_a_layernorm.weight(), 1.0F);
    NIB_TRY_STATUS(impl->prepare());
    return std::unique_ptr<MlaModule>(new MlaModule(std::move(impl)));
  });
}

Result<SequenceId> MlaModule::add_sequence() {
  return modules::guarded([&]() -> Result<SequenceId> {
    if (std::cmp_equal(impl_->sequences.size(), impl_->config.max_sequences)) {
      return bad_input(fmt::format("{} sequences are in the cache already (max_sequences); free one",
                                   impl_->sequences.size()));
    }
    impl_->sequences[++impl_->last_sequence];
    return impl_->last_sequence;
  });
}

Status MlaModule::free_sequence(SequenceId sequence) {
  return modules::guarded([&]() -> Status {
    NIB_TRY(Impl::Sequence* const found, impl_->find(sequence));
    impl_->pool.release(found->pages);
    impl_->sequences.erase(sequence);
    return {};
  });
}

Result<std::int32_t> MlaModule::length(SequenceId sequence) const {
  NIB_TRY(const Impl::Sequence* const found, impl_->find(sequence));
  return found->length;
}

Status MlaModule::truncate(SequenceId sequence, std::int32_t length) {
  return modules::guarded([&]() -> Status {
    NIB_TRY(Impl::Sequence* const found, impl_->find(sequence));
    if (length < 0 || length > found->length) {
      return bad_input(fmt::format("sequence {} has {} tokens, it cannot be shortened to {}", sequence,
                                   found->length, length));
    }
    const auto keep = found->pages.begin() + impl_->pool.pages_for(length);
    std::vector<engine::PageId> rest(keep, found->pages.end());
    found->pages.erase(keep, found->pages.end());
    impl_->pool.release(rest);
    found->length = length;
    return {};
  });
}

Status MlaModule::forward(std::span<const MlaChunk> chunks, const float* x, float* y) {
  return modules::guarded([&]() -> Status {
    if (impl_->device->impl().in_sequence) {
      return bad_input(
          "forward of an MLA module brings its step's lengths along and cannot be part of a recording");
    }
    if (chunks.empty()) return {};
    if (x == nullptr || y == nullptr) return bad_input("x or y is null");
    NIB_TRY(const Impl::Step step, impl_->begin_step(chunks));
    impl_->run(step, x, y, true);
    return {};
  });
}

Status MlaModule::forward_host(std::span<const MlaChunk> chunks, std::span<const float> x,
                               std::span<float> y) {
  std::int64_t tokens = 0;
  for (const MlaChunk& chunk : chunks) tokens += std::max(chunk.num_tokens, 0);
  const auto values = static_cast<std::size_t>(tokens * impl_->config.hidden_size);
  if (x.size() != values || y.size() != values) {
    return bad_input(fmt::format("x has {} values and y {}; {} tokens of hidden_size {} have {}", x.size(),
                                 y.size(), tokens, impl_->config.hidden_size, values));
  }
  ModuleDevice& device = *impl_->device;
  if (device.kind() == DeviceKind::cpu || chunks.empty()) return forward(chunks, x.data(), y.data());
  return modules::guarded([&]() -> Status {
    NIB_TRY(const Impl::Step step, impl_->begin_step(chunks));
    NIB_TRY(const DeviceArray there, device.allocate(x.size_bytes()));
    NIB_TRY_STATUS(device.upload(there.data(), x.data(), x.size_bytes()));
    impl_->run(step, there.f32(), there.f32(), false);  // not recorded: the addresses are this call's alone
    return device.download(y.data(), there.data(), y.size_bytes());
  });
}

Status MlaModule::append_entries(SequenceId sequence, std::int32_t num_tokens, const float* latent,
                                 const float* k_pe) {
  return modules::guarded([&]() -> Status {
    if (latent == nullptr || k_pe == nullptr) return bad_input("latent or k_pe is null");
    const MlaChunk chunk{sequence, num_tokens};
    Impl::Step step;
    NIB_TRY(Impl::Sequence* const found, impl_->find(sequence));
    if (num_tokens < 1)
      return bad_input(
          fmt::format("{} entries for sequence {}; at least one is needed", num_tokens, sequence));
    step.sequences.push_back(found);
    NIB_TRY_STATUS(impl_->take_pages({&chunk, 1}, step));
    kernels::Device& on = *impl_->device->impl().device;
    modules::StepArrays arrays;
    engine::DeviceBatch batch(on.exec(), 0);
    const layers::ForwardBatch placed =
        batch.place(arrays.build(step.items, impl_->config.page_size, MlaMode::absorb));
    const auto view = [&](const float* data, std::int64_t width) {
      return make_view(const_cast<float*>(data), DType::f32, {num_tokens, width});
    };
    on.table().cache_write(on.exec(), {.latent = view(latent, impl_->config.kv_lora_rank),
                                       .k_pe = view(k_pe, impl_->config.qk_rope_head_dim),
                                       .slot_mapping = placed.arrays().slot_mapping,
                                       .cache = impl_->cache});
    on.exec().memory().download({}, nullptr);
    found->length += num_tokens;
    return {};
  });
}

AttentionPlan::AttentionPlan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AttentionPlan::AttentionPlan(AttentionPlan&&) noexcept = default;
AttentionPlan& AttentionPlan::operator=(AttentionPlan&&) noexcept = default;
AttentionPlan::~AttentionPlan() = default;

Result<AttentionPlan> MlaModule::plan_attention(std::span<const MlaChunk> chunks) {
  return modules::guarded([&]() -> Result<AttentionPlan> {
    if (chunks.empty()) return bad_input("a plan for no sequences");
    Impl::Step step;
    NIB_TRY_STATUS(impl_->check_step(chunks, step));
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const Impl::Sequence& sequence = *step.sequences[i];
      const std::int32_t count = chunks[i].num_tokens;
      if (count > sequence.length) {
        return bad_input(fmt::format("{} queries for sequence {}, which has {} tokens", count,
                                     chunks[i].sequence, sequence.length));
      }
      step.items.push_back({sequence.length - count, count, sequence.pages});
    }
    auto plan = std::make_unique<AttentionPlan::Impl>(impl_->device->impl().exec());
    plan->module = impl_.get();
    plan->batch =
        plan->device_batch.place(plan->arrays.build(step.items, impl_->config.page_size, MlaMode::absorb));
    return AttentionPlan(std::move(plan));
  });
}

Status MlaModule::attend(const AttentionPlan& plan, const float* q_latent, const float* q_pe, float* o) {
  return modules::guarded([&]() -> Status {
    if (plan.impl_ == nullptr || plan.impl_->module != impl_.get())
      return bad_input("the plan is another module's");
    if (q_latent == nullptr || q_pe == nullptr || o == nullptr)
      return bad_input("q_latent, q_pe or o is null");
    const layers::ForwardBatch& batch = plan.impl_->batch;
    const layers::BatchArrays arrays = batch.arrays();
    const MlaModuleConfig& c = impl_->config;
    const auto view = [&](const float* data, std::int64_t width) {
      return make_view(const_cast<float*>(data), DType::f32, {batch.num_tokens(), c.num_heads, width});
    };
    kernels::Device& on = *impl_->device->impl().device;
    on.table().mla_absorbed(on.exec(), {.q_latent = view(q_latent, c.kv_lora_rank),
                                        .q_pe = view(q_pe, c.qk_rope_head_dim),
                                        .cache = impl_->cache,
                                        .ragged = {.num_seqs = batch.num_seqs(),
                                                   .cu_seqlens_q = arrays.cu_seqlens_q,
                                                   .seq_lens = arrays.seq_lens,
                                                   .page_tables = arrays.page_tables,
                                                   .max_pages = batch.max_pages,
                                                   .page_size = c.page_size},
                                        .scale = impl_->settings.attention.softmax_scale,
                                        .o = view(o, c.kv_lora_rank)});
    return {};
  });
}

const MlaModuleConfig& MlaModule::config() const noexcept { return impl_->config; }

std::size_t MlaModule::weight_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const kernels::Weight* weight : impl_->matrices()) bytes += weight->bytes();
  return bytes;
}

std::size_t MlaModule::bytes_per_token() const noexcept {
  return static_cast<std::size_t>(impl_->cache.dim(1) * dtype_bits(impl_->settings.cache_dtype) / 8);
}

}  // namespace nibble
