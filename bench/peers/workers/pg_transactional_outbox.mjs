// pg-transactional-outbox with a handler that publishes: node <this> MODE DSN NATS_URL SUBJECT SLOT
//
// MODE is "polling" or "replication". Both protections against poisonous messages are off, as its
// documentation allows for an outbox, and so is its logger. NODE_PATH says where the packages are.
//
// Polling takes 50 parallel messages, without segments: with them it makes 700 events/s, without 900.
// A message whose row its poll has just locked waits until that lock is over, so that is short.
//
// Replication keeps the order of a segment by its mutex, which costs nothing (1,360 events/s; a
// semaphore of 50: 1,330). It hands a message over when its commit is in the log, a moment before
// others can see its row. The library looks for the row, does not find it, warns (MESSAGE_NOT_FOUND)
// and acknowledges: that event is lost. No setting of it waits.

import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const outbox = require('pg-transactional-outbox');
const { connect } = require('@nats-io/transport-node');
const { jetstream } = require('@nats-io/jetstream');

const PARALLEL = 50;
const SETUP = {
  outboxOrInbox: 'outbox',
  database: 'unused',
  schema: 'public',
  table: 'outbox',
  listenerRole: 'current_user',
  nextMessagesName: 'next_outbox_messages',
};

const schema = () => {
  const { dropAndCreateTable, createPollingFunction, setupPollingIndexes } = outbox.DatabaseSetup;
  const polled = [createPollingFunction(SETUP), setupPollingIndexes(SETUP)];
  const more = process.argv[3] === 'polling' ? polled : [];
  console.log([dropAndCreateTable(SETUP), ...more].join('\n'));
};

const relay = async (mode, dsn, natsUrl, subject, slot) => {
  const client = await connect({ servers: natsUrl });
  const bus = jetstream(client);
  const handler = {
    handle: async (message) => {
      await bus.publish(subject, JSON.stringify(message.payload), { msgID: message.id });
    },
  };
  const database = { connectionString: dsn, max: PARALLEL };
  const settings = {
    dbSchema: 'public',
    dbTable: 'outbox',
    enableMaxAttemptsProtection: false,
    enablePoisonousMessageProtection: false,
    messageCleanupIntervalInMs: 0,
    dbPublication: 'outbox_publication',
    dbReplicationSlot: slot,
    nextMessagesBatchSize: PARALLEL,
    nextMessagesFunctionName: 'next_outbox_messages',
    nextMessagesPollingIntervalInMs: 10,
    nextMessagesLockInMs: 1000,
  };
  const config = { outboxOrInbox: 'outbox', dbListenerConfig: database, settings };
  const logger = outbox.getDisabledLogger();
  const listen =
    mode === 'polling'
      ? outbox.initializePollingMessageListener
      : outbox.initializeReplicationMessageListener;
  const strategies = {
    concurrencyStrategy: outbox.createReplicationSegmentMutexConcurrencyController(),
  };
  const [shutdown] = listen(config, handler, logger, strategies);
  process.once('SIGTERM', async () => {
    await shutdown();
    await client.close();
    process.exit(0);
  });
  console.log('ready');
};

if (process.argv[2] === 'schema') {
  schema();
} else {
  await relay(...process.argv.slice(2));
}
