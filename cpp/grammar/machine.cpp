#include "grammar/machine.h"

#include <algorithm>

namespace lk::grammar {
namespace {

// Far above what real grammars need (thousands); below what would hurt.
constexpr size_t kMostItems = 4096;    // of one configuration
constexpr size_t kMostSeen = 1 << 16;  // looked at for one configuration
constexpr size_t kMostFrames = 2 << 20;

uint64_t mix(uint64_t h, uint64_t x) {
    h ^= x + 0x9E3779B97F4A7C15u + (h << 6) + (h >> 2);
    return h * 0xFF51AFD7ED558CCDu;
}

}  // namespace

Machine::Machine(Network network) : net_(std::move(network)), stride_(size_t(net_.n_class())) {
    frames_.push_back({-1, 0, -1});
    seen_.resize(1024);
    seen_epoch_.resize(1024);
    intern({}, false);  // kDead
    work_.push_back({net_.entries[size_t(net_.root)], kBottom, 0});
    start_ = close();
}

void Machine::spend(size_t work) {
    left_ -= int64_t(work), done_ += int64_t(work);
    if (left_ < 0) throw GrammarError("the grammar is too ambiguous: it takes too long to see what may follow");
}

int32_t Machine::push(int32_t code, int64_t count, int32_t parent) {
    std::vector<int32_t>& ids = frame_ids_[{(int64_t(code) << 32) ^ parent, count}];
    for (const int32_t id : ids) {
        const Frame& f = frames_[size_t(id)];
        if (f.code == code && f.count == count && f.parent == parent) return id;
    }
    if (frames_.size() >= kMostFrames) throw GrammarError("the grammar's nesting takes too much memory");
    frames_.push_back({code, count, parent});
    ids.push_back(int32_t(frames_.size()) - 1);
    return ids.back();
}

int32_t Machine::intern(std::vector<Item> items, bool accepts) {
    spend(items.size());
    std::sort(items.begin(), items.end());
    items.erase(std::unique(items.begin(), items.end()), items.end());
    uint64_t h = accepts ? 1 : 2;
    for (const Item& item : items) h = mix(mix(h, uint64_t(item.state)), uint64_t(item.stack));
    std::vector<int32_t>& ids = config_ids_[h];
    for (const int32_t id : ids)
        if (configs_[size_t(id)].accepts == accepts && configs_[size_t(id)].items == items) return id;
    Config config{std::move(items), accepts, false};
    n_item_ += config.items.size();
    for (const Item& item : config.items) config.reads_tokens |= net_.states[size_t(item.state)].kind == Kind::token;
    configs_.push_back(std::move(config));
    next_.resize(next_.size() + stride_, configs_.size() == 1 ? kDead : -1);
    ids.push_back(int32_t(configs_.size()) - 1);
    return ids.back();
}

bool Machine::first_time(const Work& w) {
    if (n_seen_ * 2 >= seen_.size()) {
        std::vector<Work> old;
        for (size_t i = 0; i < seen_.size(); ++i)
            if (seen_epoch_[i] == epoch_) old.push_back(seen_[i]);
        seen_.assign(seen_.size() * 2, {});
        seen_epoch_.assign(seen_.size(), 0);
        epoch_ = 1, n_seen_ = 0;
        for (const Work& each : old) first_time(each);
    }
    const size_t mask = seen_.size() - 1;
    uint64_t h = mix(mix(uint64_t(w.state), uint64_t(w.stack)), uint64_t(w.fresh));
    for (size_t i = size_t(h) & mask;; i = (i + 1) & mask) {
        if (seen_epoch_[i] != epoch_) {
            seen_epoch_[i] = epoch_, seen_[i] = w, ++n_seen_;
            if (n_seen_ > kMostSeen) throw GrammarError("the grammar is too ambiguous: too many ways to go on");
            return true;
        }
        if (seen_[i].state == w.state && seen_[i].stack == w.stack && seen_[i].fresh == w.fresh) return false;
    }
}

// One turn of a repetition is complete: leave it, take another turn, or both.
void Machine::close_turn(const Work& w) {
    const Frame f = frames_[size_t(w.stack)];
    const Repeat& r = net_.repeats[size_t(~f.code)];
    const bool empty = w.fresh > 0;  // a turn that read nothing leads to nothing new
    const int64_t done = f.count == kEndless ? kEndless : f.count + 1;
    if (done == kEndless || done >= r.least) work_.push_back({r.exit, f.parent, std::max(w.fresh - 1, 0)});
    if (empty) return;
    if (done == kEndless)
        work_.push_back({r.start, w.stack, 1});
    else if (r.most < 0)
        work_.push_back({r.start, push(f.code, std::min(done, r.least), f.parent), 1});
    else if (done < r.most)
        work_.push_back({r.start, push(f.code, done, f.parent), 1});
}

int32_t Machine::close() {
    if (++epoch_ == 0) {
        std::fill(seen_epoch_.begin(), seen_epoch_.end(), 0);
        epoch_ = 1;
    }
    n_seen_ = 0;
    std::vector<Item> items;
    bool accepts = false;
    try {
        while (!work_.empty()) {
            const Work w = work_.back();
            work_.pop_back();
            spend(1);
            if (!net_.alive[size_t(w.state)] || !first_time(w)) continue;
            const State& s = net_.states[size_t(w.state)];
            switch (s.kind) {
                case Kind::edges:
                case Kind::token:
                    items.push_back({w.state, w.stack});
                    if (items.size() > kMostItems) throw GrammarError("the grammar is too ambiguous");
                    break;
                case Kind::eps:
                    for (uint32_t t = s.first + s.n; t-- > s.first;)
                        work_.push_back({net_.targets[t], w.stack, w.fresh});
                    break;
                case Kind::call:
                    if (s.tail)
                        work_.push_back({net_.entries[size_t(s.a)], w.stack, w.fresh});
                    else
                        work_.push_back({net_.entries[size_t(s.a)], push(w.state, 0, w.stack), w.fresh + 1});
                    break;
                case Kind::ret:
                    if (w.stack == kBottom) {
                        accepts = true;
                    } else {
                        const Frame& f = frames_[size_t(w.stack)];
                        work_.push_back({net_.states[size_t(f.code)].b, f.parent, std::max(w.fresh - 1, 0)});
                    }
                    break;
                case Kind::open: {
                    const Repeat& r = net_.repeats[size_t(s.a)];
                    if (r.least == 0) work_.push_back({r.exit, w.stack, w.fresh});
                    work_.push_back({r.start, push(~s.a, 0, w.stack), w.fresh + 1});
                    break;
                }
                case Kind::close:
                    close_turn(w);
                    break;
            }
        }
    } catch (...) {
        work_.clear();
        throw;
    }
    return intern(std::move(items), accepts);
}

int32_t Machine::make_step(int32_t config, int32_t cls) {
    const uint8_t byte = net_.byte_of[size_t(cls)];
    work_.clear();
    for (const Item& item : configs_[size_t(config)].items) {
        const State& s = net_.states[size_t(item.state)];
        if (s.kind != Kind::edges) continue;
        spend(1 + s.n / 8);
        for (uint32_t e = s.first; e < s.first + s.n; ++e)
            if (net_.edges[e].lo <= byte && byte <= net_.edges[e].hi)
                work_.push_back({net_.edges[e].target, item.stack, 0});
    }
    const int32_t next = work_.empty() ? kDead : close();
    next_[size_t(config) * stride_ + size_t(cls)] = next;
    return next;
}

int32_t Machine::step_token(int32_t config, int32_t token) {
    work_.clear();
    spend(configs_[size_t(config)].items.size());
    for (const Item& item : configs_[size_t(config)].items) {
        const State& s = net_.states[size_t(item.state)];
        if (s.kind == Kind::token && net_.token_sets[size_t(s.a)].contains(token))
            work_.push_back({s.b, item.stack, 0});
    }
    return work_.empty() ? kDead : close();
}

int32_t Machine::unite(int32_t a, int32_t b) {
    if (a == kDead || b == kDead) return a == kDead ? b : a;
    std::vector<Item> items = configs_[size_t(a)].items;
    const std::vector<Item>& more = configs_[size_t(b)].items;
    items.insert(items.end(), more.begin(), more.end());
    return intern(std::move(items), accepts(a) || accepts(b));
}

int32_t Machine::after(int32_t stack) {
    const Frame f = frames_[size_t(stack)];
    work_.clear();
    work_.push_back({net_.states[size_t(f.code)].b, f.parent, 0});
    return close();
}

}  // namespace lk::grammar
