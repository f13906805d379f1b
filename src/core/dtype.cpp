#include "core/dtype.h"

#include <array>

namespace nibble {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bits;
};

constexpr std::array kDTypes = {
    DTypeRow{DType::boolean, "BOOL", 8},
    DTypeRow{DType::f4_e2m1, "F4", 4},
    DTypeRow{DType::f6_e2m3, "F6_E2M3", 6},
    DTypeRow{DType::f6_e3m2, "F6_E3M2", 6},
    DTypeRow{DType::u8, "U8", 8},
    DTypeRow{DType::i8, "I8", 8},
    DTypeRow{DType::f8_e5m2, "F8_E5M2", 8},
    DTypeRow{DType::f8_e4m3, "F8_E4M3", 8},
    DTypeRow{DType::f8_e8m0, "F8_E8M0", 8},
    DTypeRow{DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    DTypeRow{DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    DTypeRow{DType::i16, "I16", 16},
    DTypeRow{DType::u16, "U16", 16},
    DTypeRow{DType::f16, "F16", 16},
    DTypeRow{DType::bf16, "BF16", 16},
    DTypeRow{DType::i32, "I32", 32},
    DTypeRow{DType::u32, "U32", 32},
    DTypeRow{DType::f32, "F32", 32},
    DTypeRow{DType::c64, "C64", 64},
    DTypeRow{DType::f64, "F64", 64},
    DTypeRow{DType::i64, "I64", 64},
    DTypeRow{DType::u64, "U64", 64},
};

}  // namespace

int dtype_bits(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].bits; }

std::string_view dtype_name(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].name; }

std::optional<DType> dtype_from_name(std::string_view name) noexcept {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace nibble
