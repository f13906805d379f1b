#include "core/out_of_memory.h"

#include <utility>

namespace nibble {

Error no_memory(std::string wanted, const std::bad_alloc& e) {
  if (const auto* detailed = dynamic_cast<const OutOfMemory*>(&e)) {
    wanted += "; ";
    wanted += detailed->what();
  }
  return Error{ErrorCode::out_of_memory, std::move(wanted)};
}

}  // namespace nibble
