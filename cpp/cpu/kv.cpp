#include "cpu/kv.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace lk::cpu {
namespace {

int64_t size_of(KVType type) {
    return type == KVType::f32 ? 4 : type == KVType::q8_0 ? 1 : 2;
}
int64_t align64(int64_t n) {
    return (n + 63) / 64 * 64;
}
int64_t groups(int64_t n_cell) {
    return (n_cell + kLanes - 1) / kLanes * kLanes;
}

struct Sizes {
    int64_t k, v, k_scales, v_scales;
    int64_t all() const { return k + v + k_scales + v_scales; }
};

Sizes sizes(KVType type, int64_t n_cell, int64_t k_values, int64_t v_values) {
    const int64_t cells = groups(n_cell), scale = type == KVType::q8_0 ? 2 : 0;
    return {align64(cells * k_values * size_of(type)), align64(cells * v_values * size_of(type)),
            align64(cells * k_values / 32 * scale), align64(cells * v_values / 32 * scale)};
}

}  // namespace

int64_t KV::n_bytes(KVType type, int64_t n_layer, int64_t n_cell, int64_t k_values, int64_t v_values) {
    if (type == KVType::q8_0 && (k_values % 32 != 0 || v_values % 32 != 0))
        throw std::invalid_argument("KV type q8_0 stores blocks of 32 values; this model has " +
                                    std::to_string(k_values) + " and " + std::to_string(v_values) +
                                    " a position: use f16 instead");
    return n_layer * sizes(type, n_cell, k_values, v_values).all();
}

KV::KV(KVType type, int64_t n_layer, int64_t n_block, int32_t block_size, int64_t k_values, int64_t v_values)
    : type_(type),
      n_block_(n_block),
      block_size_(block_size),
      arena_(size_t(n_bytes(type, n_layer, n_block * block_size, k_values, v_values))) {
    const Sizes s = sizes(type, n_cell(), k_values, v_values);
    uint8_t* at = arena_.data();
    for (int64_t i = 0; i < n_layer; ++i, at += s.all()) {
        auto* k_scales = reinterpret_cast<uint16_t*>(at + s.k + s.v);
        auto* v_scales = reinterpret_cast<uint16_t*>(at + s.k + s.v + s.k_scales);
        layers_.push_back({type, k_values, v_values, at, at + s.k, k_scales, v_scales});
    }
}

// Calls visit(stored bytes, how many) for the pieces of a cell in canonical order.
template <class Visit>
void KV::visit(int64_t layer, int64_t cell, Visit visit) const {
    const KVLayer& l = layers_.at(size_t(layer));
    const int64_t size = size_of(type_), group = cell / kLanes, lane = cell % kLanes;
    const bool q8 = type_ == KVType::q8_0;
    for (int64_t i = 0; i < l.k_values; ++i) {
        if (q8 && i % 32 == 0)
            visit(reinterpret_cast<uint8_t*>(l.k_scales + (group * (l.k_values / 32) + i / 32) * kLanes + lane), 2);
        visit(l.k + ((group * l.k_values + i) * kLanes + lane) * size, size);
    }
    if (!q8) return visit(l.v + cell * l.v_values * size, l.v_values * size);
    for (int64_t b = 0; b < l.v_values / 32; ++b) {
        visit(reinterpret_cast<uint8_t*>(l.v_scales + cell * (l.v_values / 32) + b), 2);
        visit(l.v + cell * l.v_values + b * 32, 32);
    }
}

int64_t KV::row_bytes() const {
    const KVLayer& l = layers_.at(0);
    const int64_t n = l.k_values + l.v_values;
    return n * size_of(type_) + (type_ == KVType::q8_0 ? n / 32 * 2 : 0);
}

void KV::export_cell(int64_t layer, int64_t cell, uint8_t* out) const {
    visit(layer, cell, [&](const uint8_t* stored, int64_t n) {
        std::memcpy(out, stored, size_t(n));
        out += n;
    });
}

void KV::restore_cell(int64_t layer, int64_t cell, const uint8_t* in) {
    visit(layer, cell, [&](uint8_t* stored, int64_t n) {
        std::memcpy(stored, in, size_t(n));
        in += n;
    });
}

void KV::copy_cell(int64_t from, int64_t to) {
    std::vector<uint8_t> row(static_cast<size_t>(row_bytes()));
    for (int64_t i = 0; i < n_layer(); ++i) {
        export_cell(i, from, row.data());
        restore_cell(i, to, row.data());
    }
}

}  // namespace lk::cpu
