"""Events in, lists out, with kafka-python alone; while `headrace run` is up: plain_client.py [HOST:PORT]."""

import json
import sys
import time

from kafka import KafkaConsumer, KafkaProducer

server = {"bootstrap_servers": sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"}
reading = {"auto_offset_reset": "earliest", "isolation_level": "read_committed", "consumer_timeout_ms": 500}
lists = KafkaConsumer("headrace.recommendations.v1", **server, **reading)
producer = KafkaProducer(**server, value_serializer=lambda value: json.dumps(value).encode())


def describe(title, theme):
    item = {"item_id": title, "title": title, "categories": [theme]}
    producer.send("headrace.items.v1", key=title.encode(), value=item).get(timeout=30)


def buys(user, title):
    now = time.time_ns() // 1_000_000
    event = {"event_type": "purchase", "user_id": user, "item_id": title, "timestamp": now, "event_id": f"{user} {now}"}
    producer.send("headrace.events.v1", key=user.encode(), value=event).get(timeout=30)
    while time.time_ns() // 1_000_000 < now + 60_000:
        for found in (json.loads(record.value) for record in lists if record.value):
            if found["trigger_event_id"] == event["event_id"]:  # the list that this event brought about
                print(f"{user} buys {title}:", ", ".join(row["item_id"] for row in found["items"]))
                return
    sys.exit(f"{user} buys {title}: no list within a minute; is `headrace run` up?")


for title in ("Stars", "Telescopes", "Galaxies", "Comets", "Eclipses", "The Moon", "Planets", "Sunspots"):
    describe(title, "astronomy")
for title in ("Sourdough", "Pastry", "Cakes", "Biscuits", "Pizza", "Rye Bread", "Brioche", "Waffles"):
    describe(title, "baking")
for purchase in ("Ben Pastry", "Ben Cakes", "Cleo Comets", "Cleo Galaxies", "Ada Planets", "Ada Sourdough"):
    buys(*purchase.split())  # Ada's list after Sourdough differs from the one before
describe("Saturn and Its Rings", "astronomy")
time.sleep(1)
buys("Cleo", "Eclipses")  # can already be recommended what was described a second ago
