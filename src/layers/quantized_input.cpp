#include "layers/quantized_input.h"

namespace nibble::layers {

using quant::ActivationFormat;

QuantizedInput::QuantizedInput(Context& ctx, TensorView x, std::initializer_list<ActivationFormat> wanted,
                               Readers readers) {
  made_[static_cast<std::size_t>(ActivationFormat::none)] = x;
  for (const ActivationFormat format : wanted) {
    TensorView& made = made_[static_cast<std::size_t>(format)];
    if (made.rank != 0) continue;
    if (readers == Readers::fast_linears && ctx.table.quantizes_inputs(format)) {
      made = x;
      continue;
    }
    made = ctx.arena.tensor(DType::f32, {x.dim(0), x.dim(1)});
    ctx.table.quantize_activation(ctx.exec, {.x = x, .format = format, .y = made});
  }
}

TensorView QuantizedInput::as(ActivationFormat format) const {
  const TensorView& made = made_[static_cast<std::size_t>(format)];
  NIB_CHECK(made.rank != 0, "the input was not prepared as {}", quant::activation_name(format));
  return made;
}

}  // namespace nibble::layers
