#!/bin/sh
# Make the secrets that compose.yaml hands to its services, in the folder given (docker/secrets).
# What is there already is kept: a new site key would match no earlier hash, and PostgreSQL keeps the
# password that it was first started with.
set -eu
folder=${1:-$(dirname "$0")/secrets}

# Nobody else enters the folder. The files in it can be read by all, as each container sees only its
# own, under a user number that this machine does not know.
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

# keep NAME VALUE: write the value unless the file is there.
keep() {
    if [ -s "$folder/$1" ]; then
        echo "$folder/$1 is kept"
    else
        printf '%s\n' "$2" > "$folder/.$1.part"
        mv "$folder/.$1.part" "$folder/$1"
        echo "$folder/$1 is new"
    fi
}

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

keep site_key "$(random)"
keep postgres_password "$(random)"
password=$(cat "$folder/postgres_password")
keep database_url "postgresql://pneumoq:$password@postgres:5432/pneumoq"

# Valkey is given the password's hash only. Who has not logged in may ask whether it is there.
if [ ! -s "$folder/broker_url" ] || [ ! -s "$folder/valkey_users" ]; then
    password=$(random)
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    rm -f "$folder/broker_url" "$folder/valkey_users"
    keep broker_url "redis://pneumoq:$password@valkey:6379/0"
    keep valkey_users "user default on nopass resetkeys resetchannels -@all +ping
user pneumoq on #$hash ~pneumoq:* &* +@all -@admin -@dangerous +info +config|get"
fi
