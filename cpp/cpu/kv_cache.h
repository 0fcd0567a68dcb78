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

// What one layer keeps of a position.
struct KVShape {
    int64_t n_head, dim_k, dim_v;
};

class KVCache {
  public:
    KVCache(KVType type, const std::vector<KVShape>& shapes, int64_t n_block, int64_t block_size);

    static int64_t bytes(KVType type, const std::vector<KVShape>& shapes, int64_t n_cell);
    int64_t n_layer() const { return int64_t(layers.size()); }
    int64_t n_cell() const { return n_block * block_size; }
    // Bytes of one position in canonical form, of the layer that has most.
    int64_t canonical_bytes() const;

    void copy_block(int64_t source, int64_t destination);
    // `ropes`: of each layer, null where keys are not rotated.
    void shift(const KernelTable& kernels, const std::vector<int64_t>& source, const std::vector<int64_t>& destination,
               const std::vector<std::shared_ptr<Rope>>& ropes, double delta);
    void export_cell(int64_t layer, int64_t cell, uint8_t* out) const;
    void restore_cell(int64_t layer, int64_t cell, const uint8_t* in);

    int64_t n_block, block_size;
    std::vector<KVLayer> layers;

  private:
    KVType type_;
    std::unique_ptr<Arena> arena_;
};

}  // namespace lk::cpu
