// MlaModule::reference: the definition of the layer, in the absorbed form.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/cache_layout.h"
#include "modules/decoder.h"
#include "modules/guard.h"
#include "modules/mla_module.h"
#include "quant/float16.h"
#include "quant/float8.h"

namespace nibble {
namespace {

using modules::Decoder;
using modules::Rows64;

void norm_rows(Rows64& x, std::int64_t width, const std::vector<float>& weight, double eps) {
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    double* const row = x.row(i);
    double squares = 0;
    for (std::int64_t j = 0; j < width; ++j) squares += row[j] * row[j];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::int64_t j = 0; j < width; ++j)
      row[j] *= scale * static_cast<double>(weight[static_cast<std::size_t>(j)]);
  }
}

std::vector<float> host_values(MemorySpace& memory, const layers::Parameter& parameter) {
  std::vector<float> values(static_cast<std::size_t>(parameter.size));
  memory.download({reinterpret_cast<std::byte*>(values.data()), values.size() * sizeof(float)},
                  parameter.values.data());
  return values;
}

class Rotation {
 public:
  explicit Rotation(const layers::RopeConfig& config)
      : frequencies_(layers::rope_frequencies(config)), scale_(layers::rope_attention_factor(config)) {}

  void turn(double* pairs, std::int64_t position) const {
    for (std::size_t i = 0; i < frequencies_.size(); ++i) {
      // The angle is a float32 product, as the tables' is.
      const auto angle = static_cast<double>(static_cast<float>(position) * frequencies_[i]);
      const double a = pairs[2 * i];
      const double b = pairs[2 * i + 1];
      pairs[2 * i] = scale_ * (a * std::cos(angle) - b * std::sin(angle));
      pairs[2 * i + 1] = scale_ * (a * std::sin(angle) + b * std::cos(angle));
    }
  }

 private:
  std::vector<float> frequencies_;
  double scale_;
};

double as_bf16(double x) {
  return static_cast<double>(quant::bf16_to_float(quant::float_to_bf16(static_cast<float>(x))));
}

// What the cache keeps of an entry (cache_layout.h).
void round_entry(DType dtype, double* entry, std::int64_t d_latent, std::int64_t width) {
  if (dtype == DType::f32) return;
  std::int64_t done = 0;
  if (kernels::is_fp8_cache(dtype)) {
    const bool e4m3 = dtype == DType::f8_e4m3;
    float amax = 1e-12F;
    for (std::int64_t i = 0; i < d_latent; ++i)
      amax = std::max(amax, std::fabs(static_cast<float>(entry[i])));
    const float scale = amax / (e4m3 ? quant::kE4m3Max : quant::kE5m2Max);
    for (std::int64_t i = 0; i < d_latent; ++i) {
      const float x = static_cast<float>(entry[i]) / scale;
      const float code = e4m3 ? quant::e4m3_to_float(quant::float_to_e4m3_saturated(x))
                              : quant::e5m2_to_float(quant::float_to_e5m2_saturated(x));
      entry[i] = static_cast<double>(code) * static_cast<double>(scale);
    }
    done = d_latent;
  }
  for (std::int64_t i = done; i < width; ++i) entry[i] = as_bf16(entry[i]);
}

// Attention of one query over entries [0, visible): o [d_latent].
void attend(const double* q_latent, const double* q_pe, const Rows64& entries, std::int64_t visible,
            std::int64_t d_latent, double scale, double* o) {
  const std::int64_t d_rope = entries.width - d_latent;
  std::vector<double> p(static_cast<std::size_t>(visible));
  double largest = -HUGE_VAL;
  for (std::int64_t s = 0; s < visible; ++s) {
    const double* const entry = entries.row(s);
    double score = 0;
    for (std::int64_t i = 0; i < d_latent; ++i) score += q_latent[i] * entry[i];
    for (std::int64_t i = 0; i < d_rope; ++i) score += q_pe[i] * entry[d_latent + i];
    p[static_cast<std::size_t>(s)] = score * scale;
    largest = std::max(largest, score * scale);
  }
  double sum = 0;
  for (double& score : p) sum += score = std::exp(score - largest);
  std::fill_n(o, d_latent, 0.0);
  for (std::int64_t s = 0; s < visible; ++s) {
    const double share = p[static_cast<std::size_t>(s)] / sum;
    const double* const entry = entries.row(s);
    for (std::int64_t i = 0; i < d_latent; ++i) o[i] += share * entry[i];
  }
}

// y[k] = w^T x of one group [n, k].
void transposed_product(Decoder& decoder, const kernels::Weight& w, std::int64_t group, const double* x,
                        double* y) {
  const std::int64_t k = w.shape.k;
  const float* const rows = decoder.rows(w, group, 0, w.shape.n);
  std::fill_n(y, k, 0.0);
  for (std::int64_t row = 0; row < w.shape.n; ++row) {
    for (std::int64_t i = 0; i < k; ++i) y[i] += x[row] * static_cast<double>(rows[row * k + i]);
  }
}

class MlaReference {
 public:
  explicit MlaReference(MlaModule::Impl& impl)
      : impl_(impl),
        c_(impl.settings.attention),
        w_(impl.attention.weights()),
        rotation_(impl.settings.rope),
        decoder_(*impl.device->impl().device) {}

  // Cache entries of all tokens: latent, then the rope key.
  Rows64 entries(const Rows64& x) {
    Rows64 kv = decoder_.product(x, w_.kv_a_proj_with_mqa.weight());
    norm_rows(kv, c_.kv_lora_rank, values(w_.kv_a_layernorm), static_cast<double>(c_.norm_eps));
    for (std::int64_t t = 0; t < kv.rows(); ++t) {
      rotation_.turn(kv.row(t) + c_.kv_lora_rank, t);
      round_entry(impl_.settings.cache_dtype, kv.row(t), c_.kv_lora_rank, kv.width);
    }
    return kv;
  }

  // Queries of tokens at positions first, first + 1, ...
  Rows64 queries(const Rows64& x, std::int64_t first) {
    Rows64 q;
    if (w_.q_proj) {
      q = decoder_.product(x, w_.q_proj->weight());
    } else {
      Rows64 q_a = decoder_.product(x, w_.q_a_proj->weight());
      norm_rows(q_a, c_.q_lora_rank, values(*w_.q_a_layernorm), static_cast<double>(c_.norm_eps));
      q = decoder_.product(q_a, w_.q_b_proj->weight());
    }
    for (std::int64_t t = 0; t < q.rows(); ++t) {
      for (std::int64_t h = 0; h < c_.num_attention_heads; ++h) {
        rotation_.turn(q.row(t) + h * c_.qk_head_dim() + c_.qk_nope_head_dim, first + t);
      }
    }
    return q;
  }

  Rows64 attention(const Rows64& q, const Rows64& entries, std::int64_t first) {
    const std::int64_t heads = c_.num_attention_heads;
    Rows64 out{.width = heads * c_.v_head_dim, .values = {}};
    out.values.resize(static_cast<std::size_t>(q.rows() * out.width));
    std::vector<double> q_latent(static_cast<std::size_t>(c_.kv_lora_rank));
    Rows64 o_latent{.width = c_.kv_lora_rank, .values = {}};
    o_latent.values.resize(static_cast<std::size_t>(q.rows() * c_.kv_lora_rank));
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t t = 0; t < q.rows(); ++t) {
        const double* const query = q.row(t) + h * c_.qk_head_dim();
        transposed_product(decoder_, w_.w_uk, h, query, q_latent.data());
        attend(q_latent.data(), query + c_.qk_nope_head_dim, entries, first + t + 1, c_.kv_lora_rank,
               static_cast<double>(c_.softmax_scale), o_latent.row(t));
      }
      const float* const w = decoder_.rows(w_.w_uv, h, 0, c_.v_head_dim);
      for (std::int64_t t = 0; t < q.rows(); ++t) {
        for (std::int64_t i = 0; i < c_.v_head_dim; ++i) {
          out.row(t)[h * c_.v_head_dim + i] =
              modules::dot(o_latent.row(t), w + i * c_.kv_lora_rank, c_.kv_lora_rank);
        }
      }
    }
    return decoder_.product(out, w_.o_proj.weight());
  }

 private:
  std::vector<float> values(layers::RmsNorm& norm) {
    return host_values(impl_.device->impl().memory(), norm.weight());
  }

  MlaModule::Impl& impl_;
  const layers::MlaConfig& c_;
  layers::MlaWeights& w_;
  Rotation rotation_;
  Decoder decoder_;
};

}  // namespace

Result<std::vector<double>> MlaModule::reference(std::span<const float> x, std::int32_t num_outputs) const {
  const std::int64_t hidden = impl_->config.hidden_size;
  const auto length = static_cast<std::int64_t>(x.size()) / hidden;
  if (static_cast<std::int64_t>(x.size()) != length * hidden || num_outputs < 0 || num_outputs > length) {
    return bad_input(fmt::format("x has {} values of hidden_size {}, outputs of the last {} tokens", x.size(),
                                 hidden, num_outputs));
  }
  return modules::guarded([&]() -> Result<std::vector<double>> {
    if (num_outputs == 0) return std::vector<double>();
    const std::int64_t first = length - num_outputs;
    const Rows64 all{.width = hidden, .values = std::vector<double>(x.begin(), x.end())};
    const Rows64 last{.width = hidden, .values = std::vector<double>(x.begin() + first * hidden, x.end())};
    MlaReference reference(*impl_);
    const Rows64 entries = reference.entries(all);
    const Rows64 queries = reference.queries(last, first);
    return std::move(reference.attention(queries, entries, first).values);
  });
}

}  // namespace nibble
