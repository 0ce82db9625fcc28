// guacamole-lite (npm) as the peer: a server for one guacd, ready when it prints its port and a connection token.
"use strict";

const http = require("node:http");
const GuacamoleLite = require("guacamole-lite");
const Crypt = require("guacamole-lite/lib/Crypt.js");

const guacdPort = Number(process.argv[2]);
const key = "bench-only-key-of-32-characters!";
const cypher = "AES-256-CBC";
const web = http.createServer();

new GuacamoleLite(
  { server: web },
  { host: "127.0.0.1", port: guacdPort },
  { crypt: { cypher, key }, log: { level: "ERRORS" }, maxInactivityTime: 0 },
);
web.listen(0, "127.0.0.1", () => {
  const settings = { hostname: "127.0.0.1", username: "bench", password: "bench" };
  const token = new Crypt(cypher, key).encrypt({ connection: { type: "rdp", settings } });
  console.log(`${web.address().port} ${encodeURIComponent(token)}`);
});
