// ResidualStream: the hidden states of a forward pass, and the newest sublayer's output until somebody needs
// their sum. The sum is made by the norm that reads it, which saves a pass over both.
#pragma once

#include "layers/context.h"
#include "layers/rms_norm.h"

namespace nibble::layers {

class ResidualStream {
 public:
  // hidden, delta: [m, hidden_size] f32 each; delta need not be initialised.
  ResidualStream(TensorView hidden, TensorView delta) : hidden_(hidden), delta_(delta) {}

  // Where the next sublayer writes its output, followed by set_pending().
  [[nodiscard]] TensorView delta() const noexcept { return delta_; }
  void set_pending() noexcept { pending_ = true; }

  // y = norm(stream). y: [m, hidden_size] f32.
  void norm(Context& ctx, const RmsNorm& norm, TensorView y) {
    norm_rows(ctx, norm, 0, hidden_.dim(0), y);
    pending_ = false;
  }
  // The same of rows [begin, end) alone, leaving the others as they are: for the last norm of a pass.
  void norm_rows(Context& ctx, const RmsNorm& norm, std::int64_t begin, std::int64_t end,
                 TensorView y) const {
    norm.forward_add(ctx, hidden_.rows(begin, end), pending_ ? delta_.rows(begin, end) : TensorView{}, y);
  }

  // The hidden states with nothing pending: [m, hidden_size] f32.
  TensorView settled(Context& ctx) {
    if (pending_) ctx.table.add(ctx.exec, {.x = hidden_, .y = delta_});
    pending_ = false;
    return hidden_;
  }

 private:
  TensorView hidden_;
  TensorView delta_;
  bool pending_ = false;
};

}  // namespace nibble::layers
