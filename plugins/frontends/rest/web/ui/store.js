/** Conversations in IndexedDB, or in memory where there is none. Other tabs hear of each change. */

const STORES = {
  conversations: { keyPath: "id", indexes: { updated: "updated", pinned: "pinned" } },
  messages: { keyPath: "id", indexes: { conv: "conv", "conv+parent": ["conv", "parent"] } },
  probs: { keyPath: "message", indexes: {} },
  presets: { keyPath: "name", indexes: {} },
  meta: { keyPath: "key", indexes: {} },
};

export const tab = newId();
const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("llamakit") : null;
const problems = new Set();
let database = null;
let memory = null;

/** 16 random bytes in hex; `crypto.randomUUID` does not exist over plain http on a LAN. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Calls `listener(reason)` when chats can no longer be kept; at once if that is known already. */
export function onStorageProblem(listener) {
  problems.add(listener);
  if (memory) listener(memory.reason);
}

/** Calls `listener(id)` when another tab changed the conversation `id`. */
export function onOtherTab(listener) {
  channel?.addEventListener("message", ({ data }) => data?.tab !== tab && listener(data.conversation));
}

/** Opens the database; without one, everything is kept in memory and the problem is told. */
export async function openStore() {
  try {
    database = await openDatabase();
    database.addEventListener("versionchange", () => database.close());
  } catch (error) {
    useMemory(error.message || "this browser keeps no data for this page");
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("llamakit", 1);
    opening.onupgradeneeded = () => {
      for (const [name, { keyPath, indexes }] of Object.entries(STORES)) {
        const store = opening.result.createObjectStore(name, { keyPath });
        for (const [index, path] of Object.entries(indexes)) store.createIndex(index, path);
      }
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
    opening.onblocked = () => reject(new Error("another tab holds the database"));
  });
}

function useMemory(reason) {
  memory ??= { reason, ...Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()])) };
  for (const listener of problems) listener(reason);
}

const settled = (asked) => new Promise((resolve, reject) => {
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => reject(asked.error);
});

/** Every record of a store, or those whose `index` has the value. */
export async function all(store, index, value) {
  if (memory) {
    const records = [...memory[store].values()].map((record) => structuredClone(record));
    return index ? records.filter((record) => record[index] === value) : records;
  }
  const source = database.transaction(store).objectStore(store);
  return settled(index ? source.index(index).getAll(value) : source.getAll());
}

export async function get(store, key) {
  if (memory) return structuredClone(memory[store].get(key));
  return settled(database.transaction(store).objectStore(store).get(key));
}

/** Writes records of several stores in one transaction: `{conversations: [...], messages: [...]}`. */
export async function putAll(records) {
  const names = Object.keys(records).filter((name) => records[name].length);
  if (!names.length) return;
  if (!memory) {
    try {
      await written(names, (store, name) => records[name].forEach((record) => store.put(record)));
      return;
    } catch (error) {
      await keepGoing(error);
    }
  }
  for (const name of names) {
    for (const record of records[name]) memory[name].set(record[STORES[name].keyPath], structuredClone(record));
  }
}

/** After a failed write (a full disk, a lost database) what there is goes to memory, and the reader is told. */
async function keepGoing(error) {
  const saved = {};
  for (const name of Object.keys(STORES)) saved[name] = await all(name).catch(() => []);
  useMemory(error?.name === "QuotaExceededError" ? "the browser's storage is full" : `${error?.message ?? error}`);
  for (const [name, records] of Object.entries(saved)) {
    for (const record of records) memory[name].set(record[STORES[name].keyPath], record);
  }
}

function written(names, write) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(names, "readwrite");
    transaction.oncomplete = resolve;
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error ?? new Error("the write was cut"));
    for (const name of names) write(transaction.objectStore(name), name);
  });
}

export const put = (store, record) => putAll({ [store]: [record] });

export async function remove(store, keys) {
  const list = [keys].flat();
  if (memory) for (const key of list) memory[store].delete(key);
  else await written([store], (target) => list.forEach((key) => target.delete(key)));
}

/** Tells the other tabs that a conversation changed. */
export const announceChange = (conversation) => channel?.postMessage({ tab, conversation });

/** Removes for good what was deleted in an earlier visit, with its messages and probabilities. */
export async function purge(before) {
  const doomed = (await all("conversations")).filter((conversation) => conversation.deleted && conversation.deleted < before);
  for (const conversation of doomed) {
    const ids = (await all("messages", "conv", conversation.id)).map((message) => message.id);
    await remove("messages", ids);
    await remove("probs", ids);
    await remove("conversations", conversation.id);
  }
}

/** Asks the browser not to evict our data, where it can be asked. */
export async function askToPersist() {
  try {
    if (!(await navigator.storage?.persisted?.())) await navigator.storage?.persist?.();
  } catch {
    // Not offered here, as over plain http: nothing is lost by going on.
  }
}
