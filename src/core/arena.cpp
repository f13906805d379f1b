#include "core/arena.h"

#include <algorithm>

namespace nibble {

std::byte* Arena::allocate(std::size_t bytes) {
  constexpr std::size_t kAlign = 64;
  const std::size_t begin = used_;
  used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  peak_ = std::max(peak_, used_);
  // Addresses of counting mode are never dereferenced, but must be distinct from null.
  if (counting_) return reinterpret_cast<std::byte*>(kAlign + begin);
  NIB_CHECK(used_ <= capacity_, "scratch arena needs {} bytes, was sized for {}", used_, capacity_);
  return buffer_.data() + begin;
}

TensorView Arena::tensor(DType dtype, std::initializer_list<std::int64_t> shape) {
  TensorView view = make_view(nullptr, dtype, shape);
  view.data = allocate(static_cast<std::size_t>((view.num_elements() * dtype_bits(dtype) + 7) / 8));
  return view;
}

}  // namespace nibble
