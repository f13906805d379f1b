#include <cuda_runtime_api.h>

#include <array>

#include "core/check.h"
#include "kernels/cuda/attention/mla_fast.h"
#include "kernels/cuda/check.h"

namespace nibble::kernels::cuda {
namespace {

// Asked of the runtime, so that nothing links against the driver.
decltype(&cuTensorMapEncodeTiled) encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned kSince = 12000;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault,
                                         &result),
        "cuTensorMapEncodeTiled");
  NIB_CHECK(result == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

CUtensorMap bf16_boxes(const void* data, std::int64_t num_rows, std::int64_t num_columns,
                       std::int64_t row_stride, int box_rows) {
  static const auto encode = encode_function();
  CUtensorMap map{};
  const std::array<cuuint64_t, 2> shape{static_cast<cuuint64_t>(num_columns),
                                        static_cast<cuuint64_t>(num_rows)};
  const std::array<cuuint64_t, 1> strides{static_cast<cuuint64_t>(row_stride) * 2};
  const std::array<cuuint32_t, 2> box{64, static_cast<cuuint32_t>(box_rows)};
  const std::array<cuuint32_t, 2> steps{1, 1};
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), shape.data(), strides.data(),
             box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  NIB_CHECK(status == CUDA_SUCCESS, "tensor map of [{}, {}] bf16: error {}", num_rows, num_columns,
            static_cast<int>(status));
  return map;
}

}  // namespace nibble::kernels::cuda
