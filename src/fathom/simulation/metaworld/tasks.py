"""What there is to know about Meta-World v3 without loading it: its rate, its signals, its 50 tasks.

Each task has the sentence that asks for it. The sentences say what to do, never where things are. Some tasks share one
scene (the two faucet tasks look exactly alike at the start): there only the sentence decides.
"""

SIMULATOR_HZ = 80
SIMULATOR_STEPS = 500
"""The limit of an episode, as in Meta-World."""

ACTION_REPEAT = 2
"""Simulator steps per action."""

STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper_opening")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")

INSTRUCTIONS: dict[str, str] = {
    "assembly": "put the round nut onto the peg",
    "basketball": "drop the basketball into the hoop",
    "bin-picking": "move the block from one bin to the other",
    "box-close": "put the lid on the box",
    "button-press": "push the button on the front of the box",
    "button-press-topdown": "press the red button from above",
    "button-press-topdown-wall": "reach over the wall and press the red button from above",
    "button-press-wall": "reach past the wall and push the button on the front of the box",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "lift the round nut off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "turn the faucet to the left",
    "faucet-open": "turn the faucet to the right",
    "hammer": "hammer the nail into the box",
    "hand-insert": "put the gripper into the hole",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle down from the side",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle up from the side",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "insert the peg into the hole in the side of the box",
    "peg-unplug-side": "pull the plug out of the wall",
    "pick-out-of-hole": "pick the puck out of the hole",
    "pick-place": "pick up the puck and bring it to the marker",
    "pick-place-wall": "pick up the puck and bring it over the wall to the marker",
    "plate-slide": "slide the plate forward into the goal",
    "plate-slide-back": "slide the plate back out of the goal",
    "plate-slide-back-side": "slide the plate sideways out of the goal",
    "plate-slide-side": "slide the plate sideways into the goal",
    "push": "push the puck forward to the marker",
    "push-back": "pull the puck back to the marker",
    "push-wall": "push the puck around the wall to the marker",
    "reach": "move the gripper to the marker",
    "reach-wall": "move the gripper past the wall to the marker",
    "shelf-place": "place the block on the shelf",
    "soccer": "push the ball into the goal",
    "stick-pull": "use the stick to pull the container",
    "stick-push": "use the stick to push the container",
    "sweep": "sweep the block off the table",
    "sweep-into": "sweep the block into the hole",
    "window-close": "close the window",
    "window-open": "open the window",
}
