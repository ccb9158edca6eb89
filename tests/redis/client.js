// What programs do with ioredis, against the server at the port that is given.
const assert = require('node:assert');
const Redis = require('ioredis');

const port = Number(process.argv[2]);

async function main() {
  const options = { port, maxRetriesPerRequest: 1, commandTimeout: 20000 };
  const redis = new Redis(options);
  assert.equal(await redis.ping(), 'PONG');
  assert.equal(await redis.set('js:a', '1'), 'OK');
  assert.equal(await redis.get('js:a'), '1');
  assert.equal(await redis.get('js:none'), null);
  assert.equal(await redis.set('js:a', '2', 'NX'), null);
  assert.equal(await redis.set('js:a', '3', 'XX', 'GET'), '1');
  assert.equal(await redis.incrby('js:n', 41), 41);
  assert.deepEqual(await redis.mset({ 'js:x': '1', 'js:y': '2' }), 'OK');
  assert.deepEqual(await redis.mget('js:x', 'js:y', 'js:z'), ['1', '2', null]);
  assert.equal(await redis.del('js:x', 'js:z'), 1);
  const binary = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  await redis.set(binary, binary);
  assert.ok((await redis.getBuffer(binary)).equals(binary));
  await assert.rejects(redis.call('NOSUCH'), /ERR unknown command/);
  await assert.rejects(redis.call('INCRBY', 'js:n', 'x'), /ERR value is not an integer/);

  const pipeline = redis.pipeline();
  for (let i = 0; i < 1000; i++) pipeline.set(`js:${i}`, i).get(`js:${i}`);
  const replies = await pipeline.exec();
  assert.equal(replies.length, 2000);
  replies.forEach(([error, reply], i) => {
    assert.equal(error, null);
    assert.equal(reply, i % 2 ? String(i >> 1) : 'OK');
  });
  assert.deepEqual(await redis.multi().incr('js:t').incr('js:t').get('js:t').exec(), [
    [null, 1],
    [null, 2],
    [null, '2'],
  ]);

  const counters = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const own = new Redis(options);
      for (let i = 0; i < 50; i++) await own.incr('js:count');
      await own.quit();
    }),
  );
  assert.equal(counters.length, 20);
  assert.equal(await redis.get('js:count'), '1000');
  assert.equal(await redis.quit(), 'OK');
  console.log('done');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
