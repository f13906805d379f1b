#include "kernels/ref/ops.h"
#include "quant/activations.h"

namespace nibble::kernels::ref {

void quantize_activation(Exec& exec, const QuantizeActivationArgs& args) {
  NIB_CHECK(args.x.dim(0) == args.y.dim(0) && args.x.dim(1) == args.y.dim(1),
            "activations [{}, {}] into [{}, {}]", args.x.dim(0), args.x.dim(1), args.y.dim(0), args.y.dim(1));
  exec.threads().parallel_for(args.x.dim(0), [&](std::int64_t i, int) {
    quant::quantize_dequantize(args.format, args.x.f32() + i * args.x.stride[0], args.x.dim(1),
                               args.y.f32() + i * args.y.stride[0]);
  });
}

}  // namespace nibble::kernels::ref
