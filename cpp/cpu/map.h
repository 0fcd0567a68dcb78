// Elementwise assignments to states in one pass over their memory, such as the step of an optimiser.
#pragma once

#include <utility>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/state.h"

namespace lk::cpu {

// One operation of an expression: `op` of earlier ones, or a leaf, which has a number instead.
struct MapNode {
    enum class Leaf : int { none, constant, scalar, state };
    Leaf leaf;
    MapOp op;
    int a, b;
    double value;  // a constant, or which scalar or state
};

struct MapAssignment {
    int state, node;  // state = what the node gives
};

// Compiled: operands are the states' own memory, or blocks of some hundred values that stay in the first cache.
class Map {
  public:
    static constexpr int64_t kBlock = 512;  // values at a time; a multiple of a state's block

    Map(int n_state, const std::vector<MapNode>& nodes, const std::vector<MapAssignment>& assignments);
    // States of one size; all expressions read the old values.
    void run(const KernelTable& kernels, Pool& pool, Workspace& memory, const std::vector<State*>& states,
             const float* scalars) const;

    int64_t own_floats() const { return n_vector_ * kBlock; }  // of each thread

  private:
    void place_leaf(const MapNode& node, int& place);
    int place_operation(const MapNode& node, const std::vector<int>& place, std::vector<int>& uses);
    int new_value(float value);
    bool assign(int state, int from);
    bool can_write_in_place(int state, size_t from_code, int vector) const;

    int n_state_, n_vector_;
    std::vector<MapInstruction> once_;  // of values alone; `to` is a value
    std::vector<MapInstruction> code_;
    std::vector<float> values_;                 // what all elements share, constants in their places
    std::vector<std::pair<int, int>> scalars_;  // (value, number of the scalar)
    std::vector<char> changed_;                 // whether each state is assigned
    std::vector<int> free_;                     // vectors that nobody needs any more, while it is compiled
};

}  // namespace lk::cpu
