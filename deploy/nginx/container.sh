#!/bin/sh
# nginx in a container (docker-compose.yml, profile nginx): earshot.conf with the name, the edge, and the log of a container.
set -eu
: "${PUBLIC_NAME:?the public name of this server}" "${UPSTREAM:?host:port of the edge}"
sed -e "s/earshot\.example\.com/$PUBLIC_NAME/" -e "s/server 127\.0\.0\.1:8080/server $UPSTREAM/" \
  -e "s#/var/log/nginx/earshot.log#/dev/stdout#" -e "s#/var/log/nginx/earshot-error.log#/dev/stderr#" \
  "$(dirname "$0")/earshot.conf" >/etc/nginx/conf.d/earshot.conf
# The image's own server would answer on port 80.
rm -f /etc/nginx/conf.d/default.conf
exec nginx -g "daemon off;"
