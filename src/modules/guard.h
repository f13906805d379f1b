// Where exceptions end: nothing thrown below a module reaches its caller.
#pragma once

#include <exception>
#include <new>
#include <utility>

#include "nibble/result.h"

namespace nibble::modules {

// fn() returns a Result or Status; what it throws becomes one.
template <class Fn>
auto guarded(Fn&& fn) -> decltype(fn()) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const std::bad_alloc&) {
    return out_of_memory("no memory, on the host or on the device");
  } catch (const std::exception& e) {  // InternalError, DeviceError, or what a thread of a kernel threw
    return runtime_error(e.what());
  }
}

}  // namespace nibble::modules
