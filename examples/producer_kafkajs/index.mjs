// A producer in Node with kafkajs: items, then a request and a click of each user.
//
// Needs the topics (a worker or `rankloop topics` creates them).
// Run it with:  npm ci && node index.mjs [USER ...]

import { Kafka, Partitioners, logLevel } from "kafkajs";

const brokers = (process.env.RANKLOOP_BROKERS ?? "127.0.0.1:9092").split(",");
const prefix = process.env.RANKLOOP_TOPIC_PREFIX ?? "rankloop";
const users = process.argv.length > 2 ? process.argv.slice(2) : ["ann", "bob", "小明"];

const kafka = new Kafka({ brokers, logLevel: logLevel.WARN });
const producer = kafka.producer({
  // The default of kafkajs 2 and newer is murmur2, as in Java. LegacyPartitioner (kafkajs 1) is
  // not: with it, events land where rankloop refuses them (`misrouted`).
  createPartitioner: Partitioners.DefaultPartitioner,
  allowAutoTopicCreation: false,
});

const item = (id, title) => ({
  key: id, // items are keyed by item
  value: JSON.stringify({ type: "item", id, title, at: Date.now() }),
});
const event = (message) => ({
  key: message.user, // events are keyed by user
  value: JSON.stringify({ at: Date.now(), ...message }),
});

await producer.connect();
await producer.send({
  topic: `${prefix}.items`,
  messages: [item("n1", "Rain over Lisbon"), item("n2", "The home team won"), item("n3", "里斯本的雨")],
});

const run = Date.now(); // part of every id: an id that was seen before is a duplicate
await producer.send({
  topic: `${prefix}.events`,
  messages: users.flatMap((user) => [
    event({ type: "request", id: `request-${run}-${user}`, user, k: 2 }),
    // Without `request` the click belongs to no ranking; it still teaches what the user likes.
    event({ type: "click", id: `click-${run}-${user}`, user, item: "n1" }),
  ]),
});
await producer.disconnect();
console.log(`sent a request and a click of ${users.length} users`);
