// From the numbers that Python passes to types and addresses.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "floats.h"

namespace wgan_fast {

enum DType { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// Calls body(T{}) with the type of a code from Python.
template <class Body>
void with_dtype(int code, Body&& body) {
  switch (code) {
    case kFloat32:
      return body(float{});
    case kFloat64:
      return body(double{});
    case kBFloat16:
      return body(bf16{});
    case kFloat16:
      return body(fp16{});
  }
  throw std::invalid_argument("unknown dtype code " + std::to_string(code));
}

inline int64_t bytes_of(int code) {
  int64_t bytes = 0;
  with_dtype(code, [&](auto tag) { bytes = int64_t(sizeof tag); });
  return bytes;
}

template <class T>
T* pointer(int64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// One parameter of an optimizer step: the blocks are the parameter, its gradient and its moments, all of one
// size and dtype.
struct StepRow {
  int64_t size;
  float* step;
  void* blocks[5];
};

}  // namespace wgan_fast
