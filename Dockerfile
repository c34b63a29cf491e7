# One file, three images:
#   docker build --target coordinator -t holdfast/coordinator .
#   docker build --target agent --build-arg POSTGRES=17 -t holdfast/agent:17 .
# All run as user 999, PostgreSQL's own, so that they can share a directory of backups.
# An agent's image is PostgreSQL's own, because a restored server needs the programs of its major version.
ARG NODE=24
ARG POSTGRES=17

FROM node:${NODE}-bookworm-slim AS application
WORKDIR /opt/holdfast
COPY package.json package-lock.json ./
# The PostgreSQL servers from npm are for the demo and the tests.
RUN npm ci --omit=dev --no-audit --no-fund && rm -rf node_modules/postgres-1*
COPY . .

FROM node:${NODE}-bookworm-slim AS coordinator
COPY --from=application /opt/holdfast /opt/holdfast
RUN ln -s /opt/holdfast/bin/holdfast /usr/local/bin/holdfast \
 && install -d -o 999 -g 999 /var/lib/holdfast /backup
USER 999:999
EXPOSE 2881 2882
ENTRYPOINT ["holdfast"]
CMD ["coordinator", "--config", "/etc/holdfast/coordinator.yaml"]

FROM postgres:${POSTGRES}-bookworm AS agent
COPY --from=application /usr/local/bin/node /usr/local/bin/node
COPY --from=application /opt/holdfast /opt/holdfast
RUN ln -s /opt/holdfast/bin/holdfast /usr/local/bin/holdfast \
 && install -d -o postgres -g postgres /var/lib/holdfast /backup
USER postgres
ENTRYPOINT ["holdfast"]
CMD ["agent", "--config", "/etc/holdfast/agent.yaml"]
