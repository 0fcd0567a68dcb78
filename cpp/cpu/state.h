// Tensors that graphs read and change: weights that are trained, their gradients, moments of an optimiser.
#pragma once

#include <cstdint>

#include "cpu/pack.h"

namespace lk::cpu {

enum class StateType : int { f32, bf16, i8 };

// n values, row-major. Of i8 each 256 neighbours share a scale: their largest value / 127.
class State {
  public:
    static constexpr int64_t kBlock = 256;

    // `planned`: without memory, for steps that are looked at and never run.
    State(StateType type, int64_t n, bool planned = false);
    static int64_t n_bytes(StateType type, int64_t n);

    StateType type() const { return type_; }
    int64_t size() const { return n_; }
    float* floats() { return reinterpret_cast<float*>(memory_.data()); }  // of f32
    uint8_t* data() { return memory_.data(); }
    float* scales() { return reinterpret_cast<float*>(memory_.data() + scales_at(type_, n_)); }  // of i8
    void read(float* to) const { read(0, n_, to); }
    void write(const float* from) { write(0, n_, from); }
    // Values [begin, end); begin at a multiple of kBlock, end too or the state's.
    void read(int64_t begin, int64_t end, float* to) const;
    void write(int64_t begin, int64_t end, const float* from);

  private:
    void write_block(int64_t begin, int64_t end, const float* from);
    static int64_t scales_at(StateType type, int64_t n);

    StateType type_;
    int64_t n_;
    Arena memory_;
};

}  // namespace lk::cpu
