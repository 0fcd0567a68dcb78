// The memory of a KV cache, all layers, in the kernels' layout; and its canonical form, position by position.
#pragma once

#include <memory>
#include <vector>

#include "cpu/pack.h"
#include "cpu/types.h"

namespace lk::cpu {

struct Rope {
    std::vector<double> inv_freq;
    bool adjacent = true;
    double magnitude = 1;
    bool inverse = false;
};

// Cosines, then sines, of position * inv_freq, times the magnitude.
void fill_cos_sin(const Rope& rope, double position, double magnitude, float* out);

class KVCache {
  public:
    KVCache(KVType type, int64_t n_layer, int64_t n_block, int64_t block_size, int64_t n_head_kv, int64_t dim_k,
            int64_t dim_v);

    static int64_t bytes(KVType type, int64_t n_layer, int64_t n_cell, int64_t n_head_kv, int64_t dim_k, int64_t dim_v);
    int64_t n_cell() const { return n_block * block_size; }
    // Bytes of one position of one layer in canonical form.
    int64_t canonical_bytes() const;

    void copy_block(int64_t source, int64_t destination);
    void shift(const KernelTable& kernels, const std::vector<int64_t>& source, const std::vector<int64_t>& destination,
               const Rope* rope, double delta);
    void export_cell(int64_t layer, int64_t cell, uint8_t* out) const;
    void restore_cell(int64_t layer, int64_t cell, const uint8_t* in);

    int64_t n_layer, n_block, block_size, n_head_kv, dim_k, dim_v;
    std::vector<KVLayer> layers;

  private:
    template <class Move>
    void each_value(const KVLayer& layer, int64_t cell, Move move) const;

    KVType type_;
    std::unique_ptr<Arena> arena_;
};

}  // namespace lk::cpu
