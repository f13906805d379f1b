#include "core/check.h"

namespace nibble {

void check_failed(const char* condition, const char* file, int line, const std::string& text) {
  throw InternalError(fmt::format("internal error at {}:{}: {} ({})", file, line, text, condition));
}

}  // namespace nibble
