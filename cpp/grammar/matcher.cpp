#include "grammar/matcher.h"

#include <algorithm>
#include <bit>

namespace lk::grammar {
namespace {

constexpr size_t kMostConfigs = 100'000;
constexpr size_t kMostMaskBytes = size_t(48) << 20;
constexpr size_t kMostMachineBytes = size_t(64) << 20;
// What one text may take, in states and edges that are looked at: a million are about 20 ms. Of real grammars most of
// what is looked at is remembered.
constexpr int64_t kMostWork = 2'000'000;
constexpr int64_t kWorkPerToken = 200'000;  // that it may take more with each token
constexpr int64_t kReplayPerToken = 1'000;  // to find its place again
constexpr int64_t kWarmWork = 8'000'000;    // of all masks that are made when a grammar is new
constexpr int64_t kEnoughRoom = 16;         // turns left from which on a repetition's mask is made as if it had no end
constexpr int32_t kWorthLooking = 6;        // tokens of a subtree from which on it is looked at as a whole
constexpr int kDeepestCut = 64;             // frames that are looked at for a place to cut

thread_local int64_t thread_work = 0;

void set_bit(std::vector<uint32_t>& bits, int32_t id) {
    bits[size_t(id) / 32] |= uint32_t(1) << (id % 32);
}

}  // namespace

// -- Program ---------------------------------------------------------------------------------------------------------

Program::Program(Network network, std::shared_ptr<const Trie> trie)
    : trie_(std::move(trie)),
      machine_(std::make_unique<Machine>(network)),
      network_(std::move(network)),
      path_(trie_->longest + 2) {}

size_t Program::n_byte() const {
    return masks_.size() * trie_->n_word() * 4 + locals_.size() * trie_->n_word() * 4 + machine_->n_byte();
}

// Start anew with nothing remembered; matchers find their places again from what they have read.
void Program::forget() {
    forgotten_ += machine_->done();
    machine_ = std::make_unique<Machine>(network_);
    masks_.clear(), locals_.clear(), loops_.clear();
    ++generation_;
}

void Program::warm(size_t n_mask) {
    const std::lock_guard lock(mutex_);
    std::vector<int32_t> reached{machine_->start()};
    std::vector<bool> seen;
    int64_t left = kWarmWork;
    for (size_t i = 0; i < reached.size() && i < n_mask && left > 0 && machine_->n_byte() < kMostMachineBytes; ++i) {
        machine_->allow(kMostWork);
        mask(reached[i]);
        for (const uint8_t byte : network_.byte_of) {
            const int32_t next = machine_->step(reached[i], byte);
            if (size_t(next) >= seen.size()) seen.resize(size_t(next) + 1);
            if (next != kDead && !seen[size_t(next)]) reached.push_back(next);
            seen[size_t(next)] = true;
        }
        left -= kMostWork - machine_->left();
    }
}

std::shared_ptr<const Mask> Program::mask(int32_t config) {
    const auto found = masks_.find(config);
    if (found != masks_.end()) return found->second;
    if ((masks_.size() + locals_.size()) * trie_->n_word() * 4 > kMostMaskBytes) masks_.clear(), locals_.clear();
    return masks_[config] = make_mask(config);
}

std::shared_ptr<const Mask> Program::make_mask(int32_t config) {
    auto made = std::make_shared<Mask>();
    const Cut where = cut(config);
    const Local& inner = local(where.local);
    made->bits = inner.bits;
    if (where.frame != kBottom && !inner.leaves.empty()) {
        const std::vector<int32_t> leaves = inner.leaves;  // making masks may move `inner`
        const int32_t outside = machine_->after(where.frame);
        for (const int32_t node : leaves) {
            if (node == 0) {
                const auto whole = mask(outside);
                for (size_t i = 0; i < made->bits.size(); ++i) made->bits[i] |= whole->bits[i];
            } else {
                walk(outside, node + 1, trie_->nodes[size_t(node)].end, made->bits, nullptr);
            }
        }
    }
    if (where.room != INT64_MAX) drop_long(config, where.room, made->bits);
    if (machine_->reads_tokens(config))
        for (int32_t id = 0; id < trie_->n_vocab(); ++id)
            if (!trie_->is_end(id) && machine_->step_token(config, id) != kDead) set_bit(made->bits, id);
    for (const int32_t id : trie_->ends()) {
        made->bits[size_t(id) / 32] &= ~(uint32_t(1) << (id % 32));
        if (machine_->accepts(config)) set_bit(made->bits, id);
    }
    for (size_t i = 0; i < made->bits.size(); ++i) {
        made->count += std::popcount(made->bits[i]);
        if (made->bits[i] != 0) made->only = int32_t(i * 32) + std::countr_zero(made->bits[i]);
    }
    if (made->count != 1) made->only = -1;
    return made;
}

const Program::Local& Program::local(int32_t config) {
    const auto found = locals_.find(config);
    if (found != locals_.end()) return found->second;
    Local made;
    made.bits.assign(trie_->n_word(), 0);
    if (machine_->accepts(config)) made.leaves.push_back(0);
    walk(config, 1, trie_->nodes[0].end, made.bits, &made.leaves);
    return locals_[config] = std::move(made);
}

// The innermost frame of a rule with a loop that all items have in common; kBottom if there is none.
int32_t Program::find_frame(const std::vector<Item>& items) const {
    if (items.empty()) return kBottom;
    int32_t at = items[0].stack;
    for (int depth = 0; at != kBottom && depth < kDeepestCut; ++depth) {
        const Frame& f = machine_->frame(at);
        if (f.code >= 0 && network_.cuttable[size_t(network_.states[size_t(f.code)].a)]) {
            const bool common = std::all_of(items.begin(), items.end(), [&](const Item& item) {
                int32_t other = item.stack;
                for (int i = 0; other != at && other != kBottom && i < 2 * kDeepestCut; ++i)
                    other = machine_->frame(other).parent;
                return other == at;
            });
            if (common) return at;
        }
        at = f.parent;
    }
    return kBottom;
}

// A stack without what lies below `frame`, and with repetitions that have room enough made endless.
int32_t Program::shortened(int32_t stack, int32_t frame, int64_t& room) {
    std::vector<int32_t> above;
    for (int32_t at = stack; at != frame && at != kBottom; at = machine_->frame(at).parent) above.push_back(at);
    int32_t made = kBottom;
    for (size_t i = above.size(); i-- > 0;) {
        const Frame f = machine_->frame(above[i]);
        int64_t count = f.count;
        if (f.code < 0 && count != kEndless) {
            const Repeat& r = network_.repeats[size_t(~f.code)];
            if (r.most >= 0 && count + 1 >= r.least && r.most - count >= kEnoughRoom) {
                room = std::min(room, r.most - count);
                count = kEndless;
            }
        }
        made = machine_->push(f.code, count, made);
    }
    return made;
}

Program::Cut Program::cut(int32_t config) {
    Cut found;
    const std::vector<Item> items = machine_->items(config);
    found.frame = find_frame(items);
    std::vector<Item> shorter;
    for (const Item& item : items) shorter.push_back({item.state, shortened(item.stack, found.frame, found.room)});
    const bool accepts = found.frame == kBottom && machine_->accepts(config);
    found.local = machine_->intern(std::move(shorter), accepts);
    return found;
}

// Set the bits of all tokens at the nodes first..last-1 whose bytes the grammar can read from `config`, the
// configuration at the parent of these nodes. `leaves` gets the nodes at which the grammar ends but the tree goes on.
void Program::walk(int32_t config, int32_t first, int32_t last, std::vector<uint32_t>& bits,
                   std::vector<int32_t>* leaves) {
    if (first >= last) return;
    const Trie& trie = *trie_;
    Machine& machine = *machine_;
    path_[size_t(trie.nodes[size_t(first)].depth) - 1] = config;
    for (int32_t i = first; i < last;) {
        const Trie::Node& node = trie.nodes[size_t(i)];
        const int32_t before = path_[size_t(node.depth) - 1];
        if (node.tokens_end - node.tokens >= kWorthLooking && takes_all(before, i)) {
            for (int32_t t = node.tokens; t < node.tokens_end; ++t) set_bit(bits, trie.order[size_t(t)]);
            i = node.end;
            continue;
        }
        const int32_t at = machine.step(before, node.byte);
        if (at == kDead) {
            i = node.end;
            continue;
        }
        path_[node.depth] = at;
        for (int32_t t = node.tokens; t < node.own_end; ++t) set_bit(bits, trie.order[size_t(t)]);
        if (node.end != i + 1 && leaves != nullptr && machine.accepts(at)) leaves->push_back(i);
        ++i;
    }
}

// Whether every character of a node's subtree, its own byte included, leads the configuration before it back to itself.
bool Program::takes_all(int32_t config, int32_t node) {
    const Below& below = trie_->below[size_t(node)];
    const uint8_t byte = trie_->nodes[size_t(node)].byte;
    if (below.bad || !below.begins) return false;
    if (byte < 0x80 && machine_->step(config, byte) != config) return false;
    const Loop& l = loop(config);
    return (below.ascii[0] & ~l.ascii[0]) == 0 && (below.ascii[1] & ~l.ascii[1]) == 0 &&
           (l.wide || (byte < 0x80 && !below.wide));
}

// Take out tokens that need more turns of a repetition than it has left: only long ones can.
void Program::drop_long(int32_t config, int64_t room, std::vector<uint32_t>& bits) {
    for (const int32_t id : trie_->by_length) {
        const std::string& piece = trie_->piece(id);
        if (int64_t(piece.size()) < room) break;
        uint32_t& word = bits[size_t(id) / 32];
        const uint32_t bit = uint32_t(1) << (id % 32);
        if (!(word & bit)) continue;
        int32_t at = config;
        for (size_t i = 0; i < piece.size() && at != kDead; ++i) at = machine_->step(at, uint8_t(piece[i]));
        if (at == kDead) word &= ~bit;
    }
}

const Program::Loop& Program::loop(int32_t config) {
    if (size_t(config) < loops_.size() && loops_[size_t(config)]) return *loops_[size_t(config)];
    Loop made;
    // Leaving a rule is another way on, so only a configuration that cannot end may be skipped through.
    if (!machine_->accepts(config)) {
        for (int byte = 0; byte < 0x80; ++byte)
            if (machine_->step(config, uint8_t(byte)) == config) made.ascii[byte / 64] |= uint64_t(1) << (byte % 64);
        made.wide = (made.ascii[0] | made.ascii[1]) != 0 && loops_on_wide(config);
    }
    if (size_t(config) >= loops_.size()) loops_.resize(size_t(config) * 2 + 64);
    loops_[size_t(config)] = std::make_unique<Loop>(made);
    return *loops_[size_t(config)];
}

// Whether every code point from U+0080 on leads back.
bool Program::loops_on_wide(int32_t config) {
    struct Lead {
        uint8_t lo, hi, second_lo, second_hi;
        int more;
    };
    static constexpr Lead kLeads[] = {{0xC2, 0xDF, 0x80, 0xBF, 0}, {0xE0, 0xE0, 0xA0, 0xBF, 1},
                                      {0xE1, 0xEC, 0x80, 0xBF, 1}, {0xED, 0xED, 0x80, 0x9F, 1},
                                      {0xEE, 0xEF, 0x80, 0xBF, 1}, {0xF0, 0xF0, 0x90, 0xBF, 2},
                                      {0xF1, 0xF3, 0x80, 0xBF, 2}, {0xF4, 0xF4, 0x80, 0x8F, 2}};
    const auto spread = [&](const std::vector<int32_t>& from, int lo, int hi) {
        std::vector<int32_t> to;
        for (const int32_t at : from)
            for (int byte = lo; byte <= hi; ++byte) to.push_back(machine_->step(at, uint8_t(byte)));
        std::sort(to.begin(), to.end());
        to.erase(std::unique(to.begin(), to.end()), to.end());
        return to;
    };
    for (const Lead& lead : kLeads) {
        std::vector<int32_t> at = spread({config}, lead.lo, lead.hi);
        at = spread(at, lead.second_lo, lead.second_hi);
        for (int i = 0; i < lead.more; ++i) at = spread(at, 0x80, 0xBF);
        if (at != std::vector<int32_t>{config}) return false;
    }
    return true;
}

// -- Matcher ---------------------------------------------------------------------------------------------------------

int64_t work_of_thread() {
    return thread_work;
}

Matcher::Matcher(std::shared_ptr<Program> program)
    : program_(std::move(program)), left_(std::make_shared<int64_t>(kMostWork)) {}

Matcher::Count::~Count() {
    thread_work += program_.done() - before_;
}

Matcher::Turn::Turn(Matcher& matcher) : matcher_(matcher), lock_(matcher.program_->mutex_), count_(*matcher.program_) {
    matcher.refresh();
    matcher.program_->machine_->allow(*matcher.left_);
}

Matcher::Turn::~Turn() {
    *matcher_.left_ = matcher_.program_->machine_->left();
}

int32_t Matcher::read(int32_t config, const std::string& bytes) const {
    for (size_t i = 0; i < bytes.size() && config != kDead; ++i)
        config = program_->machine_->step(config, uint8_t(bytes[i]));
    return config;
}

int32_t Matcher::next(int32_t config, int32_t token) const {
    const Trie& trie = program_->trie();
    if (token < 0 || token >= trie.n_vocab()) return kDead;
    int32_t to = trie.excluded(token) ? kDead : read(config, trie.piece(token));
    if (program_->machine_->reads_tokens(config))
        to = program_->machine_->unite(to, program_->machine_->step_token(config, token));
    return to;
}

void Matcher::refresh() {
    Machine& machine = *program_->machine_;
    if (machine.n_config() > kMostConfigs || machine.n_byte() > kMostMachineBytes) program_->forget();
    if (generation_ == program_->generation_) return;
    program_->machine_->allow(kMostWork + kReplayPerToken * int64_t(history_.size()));
    generation_ = program_->generation_;
    configs_.assign(1, program_->machine_->start());
    for (const Step& step : history_)
        configs_.push_back(step.token >= 0 ? next(configs_.back(), step.token) : read(configs_.back(), step.bytes));
}

std::shared_ptr<const Mask> Matcher::mask() {
    const Turn turn(*this);
    return program_->mask(configs_.back());
}

bool Matcher::permits(int32_t token) {
    const Turn turn(*this);
    if (ended_ || token < 0 || token >= program_->trie().n_vocab()) return false;
    if (program_->trie().is_end(token)) return program_->machine_->accepts(configs_.back());
    return next(configs_.back(), token) != kDead;
}

bool Matcher::accept(int32_t token) {
    const Turn turn(*this);
    if (ended_) return false;
    if (token >= 0 && token < program_->trie().n_vocab() && program_->trie().is_end(token)) {
        if (!program_->machine_->accepts(configs_.back())) return false;
        ended_ = true;
        history_.push_back({token, {}});
        configs_.push_back(kDead);
        return true;
    }
    const int32_t to = next(configs_.back(), token);
    if (to == kDead) return false;
    history_.push_back({token, {}});
    configs_.push_back(to);
    program_->machine_->allow(std::min(kMostWork, program_->machine_->left() + kWorkPerToken));
    return true;
}

bool Matcher::accept_bytes(const std::string& bytes) {
    const Turn turn(*this);
    const int32_t to = ended_ ? kDead : read(configs_.back(), bytes);
    if (to == kDead) return false;
    history_.push_back({-1, bytes});
    configs_.push_back(to);
    return true;
}

bool Matcher::can_end() {
    const Turn turn(*this);
    return ended_ || program_->machine_->accepts(configs_.back());
}

void Matcher::rewind(size_t n_token) {
    const Turn turn(*this);
    n_token = std::min(n_token, history_.size());
    if (n_token > 0) ended_ = false;
    history_.resize(history_.size() - n_token);
    configs_.resize(history_.size() + 1);
}

std::vector<int32_t> Matcher::forced(size_t most) {
    const Turn turn(*this);
    std::vector<int32_t> found;
    int32_t at = configs_.back();
    while (!ended_ && found.size() < most) {
        const int32_t only = program_->mask(at)->only;
        if (only < 0 || program_->trie().is_end(only)) break;
        found.push_back(only);
        at = next(at, only);
    }
    return found;
}

std::string Matcher::forced_bytes(size_t most) {
    const Turn turn(*this);
    std::string found;
    Machine& machine = *program_->machine_;
    int32_t at = configs_.back();
    while (!ended_ && found.size() < most && !machine.accepts(at) && !machine.reads_tokens(at)) {
        int only = -1;
        for (int byte = 0; byte < 256 && only > -2; ++byte)
            if (machine.step(at, uint8_t(byte)) != kDead) only = only == -1 ? byte : -2;
        if (only < 0) break;
        found.push_back(char(only));
        at = machine.step(at, uint8_t(only));
    }
    return found;
}

}  // namespace lk::grammar
