#include "cpu/map.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace lk::cpu {
namespace {

constexpr int64_t kBlocksPerTask = 32;
constexpr int64_t kSerialValues = 1 << 14;  // below which waking threads costs more than it gives

float apply(MapOp op, float a, float b) {
    switch (op) {
        case MapOp::add:
            return a + b;
        case MapOp::subtract:
            return a - b;
        case MapOp::multiply:
            return a * b;
        case MapOp::divide:
            return a / b;
        case MapOp::minimum:
            return a < b ? a : b;
        case MapOp::maximum:
            return a > b ? a : b;
        case MapOp::square_root:
            return std::sqrt(a);
        case MapOp::absolute:
            return std::fabs(a);
        case MapOp::sign:
            return a > 0 ? 1.0f : a < 0 ? -1.0f : a;
        case MapOp::copy:
            break;
    }
    return a;
}

bool reads(const MapInstruction& c, int vector) {
    return c.a == vector || c.b == vector;
}

}  // namespace

Map::Map(int n_state, const std::vector<MapNode>& nodes, const std::vector<MapAssignment>& assignments)
    : n_state_(n_state), n_vector_(n_state), changed_(size_t(n_state)) {
    std::vector<int> place(nodes.size()), uses(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
        const MapNode& node = nodes[i];
        if (node.leaf != MapNode::Leaf::none) continue;
        if (node.a < 0 || node.b < 0 || size_t(std::max(node.a, node.b)) >= i)
            throw std::invalid_argument("an operation of a map reads what comes after it");
        ++uses[size_t(node.a)];
        if (node.b != node.a) ++uses[size_t(node.b)];
    }
    for (const MapAssignment& each : assignments) ++uses[size_t(each.node)];  // what is assigned is never free again
    for (size_t i = 0; i < nodes.size(); ++i) {
        if (nodes[i].leaf == MapNode::Leaf::none)
            place[i] = place_operation(nodes[i], place, uses);
        else
            place_leaf(nodes[i], place[i]);
    }
    // A state that goes to another one is kept first, since it may be assigned itself.
    std::vector<int> from;
    for (const MapAssignment& each : assignments) {
        int at = place[size_t(each.node)];
        if (at >= 0 && at < n_state_) {
            code_.push_back({MapOp::copy, at, at, n_vector_});
            at = n_vector_++;
        }
        from.push_back(at);
    }
    for (size_t i = 0; i < assignments.size(); ++i)
        if (assign(assignments[i].state, from[i]))
            std::replace(from.begin(), from.end(), int(from[i]), assignments[i].state);
}

int Map::new_value(float value) {
    values_.push_back(value);
    return int(values_.size()) - 1;
}

void Map::place_leaf(const MapNode& node, int& place) {
    if (node.leaf == MapNode::Leaf::state) {
        place = int(node.value);
        if (place < 0 || place >= n_state_) throw std::invalid_argument("a map reads a state that it does not have");
        return;
    }
    const bool scalar = node.leaf == MapNode::Leaf::scalar;
    const int value = new_value(scalar ? 0.0f : float(node.value));
    if (scalar) scalars_.push_back({value, int(node.value)});
    place = -1 - value;
}

int Map::place_operation(const MapNode& node, const std::vector<int>& place, std::vector<int>& uses) {
    const int a = place[size_t(node.a)], b = place[size_t(node.b)];
    if (a < 0 && b < 0) {
        const int value = new_value(0.0f);
        once_.push_back({node.op, a, b, value});
        return -1 - value;
    }
    const auto used = [&](int of) {
        if (--uses[size_t(of)] == 0 && place[size_t(of)] >= n_state_) free_.push_back(place[size_t(of)]);
    };
    used(node.a);
    if (node.b != node.a) used(node.b);
    int to = n_vector_;
    if (free_.empty()) {
        ++n_vector_;
    } else {
        to = free_.back();
        free_.pop_back();
    }
    code_.push_back({node.op, a, b, to});
    return to;
}

// Whether the value in `vector`, made by instruction `made`, may lie in a state's memory from there on.
bool Map::can_write_in_place(int state, size_t made, int vector) const {
    if (vector < n_state_) return false;
    for (size_t i = made + 1; i < code_.size(); ++i)
        if (reads(code_[i], state) || code_[i].to == state) return false;
    return true;
}

// state = from; returns whether what made `from` writes the state now, and nothing lies at `from` any more.
bool Map::assign(int state, int from) {
    changed_[size_t(state)] = 1;
    size_t made = code_.size();
    while (from >= 0 && made > 0 && code_[made - 1].to != from) --made;
    if (from < 0 || made == 0 || !can_write_in_place(state, made - 1, from)) {
        code_.push_back({MapOp::copy, from, from, state});
        return false;
    }
    code_[made - 1].to = state;
    for (size_t i = made; i < code_.size(); ++i) {
        if (code_[i].a == from) code_[i].a = state;
        if (code_[i].b == from) code_[i].b = state;
    }
    return true;
}

void Map::run(const KernelTable& kernels, Pool& pool, Workspace& memory, const std::vector<State*>& states,
              const float* scalars) const {
    std::vector<float> values = values_;
    for (const auto& [value, number] : scalars_) values[size_t(value)] = scalars[number];
    for (const MapInstruction& c : once_)
        values[size_t(c.to)] = apply(c.op, values[size_t(-1 - c.a)], values[size_t(-1 - c.b)]);
    const int64_t n = states[0]->size(), n_block = pieces_of(n, kBlock);
    run_on(pool, n < kSerialValues, pieces_of(n_block, kBlocksPerTask), [&](int64_t task, int thread) {
        float* own = memory.own(thread, own_floats());
        std::vector<float*> vectors(static_cast<size_t>(n_vector_));
        for (int i = 0; i < n_vector_; ++i) vectors[size_t(i)] = own + i * kBlock;
        for (int64_t i = task * kBlocksPerTask; i < std::min(n_block, (task + 1) * kBlocksPerTask); ++i) {
            const int64_t begin = i * kBlock, end = std::min(n, begin + kBlock);
            for (size_t s = 0; s < states.size(); ++s) {
                if (states[s]->type() == StateType::f32)
                    vectors[s] = states[s]->floats() + begin;
                else
                    states[s]->read(begin, end, vectors[s]);
            }
            kernels.training->map(code_.data(), int(code_.size()), vectors.data(), values.data(), end - begin);
            for (size_t s = 0; s < states.size(); ++s)
                if (changed_[s] && states[s]->type() != StateType::f32) states[s]->write(begin, end, vectors[s]);
        }
    });
}

}  // namespace lk::cpu
