#include "cpu/state.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/half.h"

namespace lk::cpu {

int64_t State::scales_at(StateType type, int64_t n) {
    const int64_t bytes = n * (type == StateType::f32 ? 4 : type == StateType::bf16 ? 2 : 1);
    return (bytes + 63) / 64 * 64;
}

int64_t State::n_bytes(StateType type, int64_t n) {
    return scales_at(type, n) + (type == StateType::i8 ? (n + kBlock - 1) / kBlock * 4 : 0);
}

State::State(StateType type, int64_t n, bool planned)
    : type_(type), n_(n), memory_(size_t(std::max<int64_t>(planned ? 0 : n_bytes(type, n), 64))) {}

void State::read(int64_t begin, int64_t end, float* to) const {
    State& self = const_cast<State&>(*this);
    if (type_ == StateType::f32) {
        std::memcpy(to, self.floats() + begin, size_t(end - begin) * 4);
    } else if (type_ == StateType::bf16) {
        const auto* from = reinterpret_cast<const uint16_t*>(self.data());
        for (int64_t i = begin; i < end; ++i) to[i - begin] = formats::bfloat_to_float(from[i]);
    } else {
        const auto* from = reinterpret_cast<const int8_t*>(self.data());
        for (int64_t first = begin; first < end; first += kBlock) {
            const float scale = self.scales()[first / kBlock];
            const int64_t last = std::min(end, first + kBlock);
            for (int64_t i = first; i < last; ++i) to[i - begin] = float(from[i]) * scale;
        }
    }
}

void State::write(int64_t begin, int64_t end, const float* from) {
    if (type_ == StateType::f32) {
        std::memcpy(floats() + begin, from, size_t(end - begin) * 4);
    } else if (type_ == StateType::bf16) {
        auto* to = reinterpret_cast<uint16_t*>(data());
        for (int64_t i = begin; i < end; ++i) to[i] = formats::float_to_bfloat(from[i - begin]);
    } else {
        for (int64_t first = begin; first < end; first += kBlock)
            write_block(first, std::min(end, first + kBlock), from + first - begin);
    }
}

// One block of int8, rounded to nearest, ties to even, by adding a number whose last bit is one.
void State::write_block(int64_t begin, int64_t end, const float* from) {
    auto* to = reinterpret_cast<int8_t*>(data()) + begin;
    constexpr float kMagic = 12582912.0f;
    float top = 0;
    for (int64_t i = 0; i < end - begin; ++i) top = std::max(top, std::fabs(from[i]));
    const float scale = top / 127.0f;
    scales()[begin / kBlock] = scale;
    for (int64_t i = 0; i < end - begin; ++i)
        to[i] = scale > 0 ? int8_t(int32_t(from[i] / scale + kMagic - kMagic)) : int8_t(0);
}

}  // namespace lk::cpu
