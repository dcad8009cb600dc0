"""What an operation and a bit moved cost.

Every default is a published figure of 45 nm at 0.9 V, of Horowitz,
*Computing's energy problem (and what we can do about it)*, ISSCC 2014:

- a multiplication and an addition of 32-bit floats, 3.7 and 0.9 pJ;
- a multiplication of 8-bit integers, 0.2 pJ, an addition of 32-bit
  integers, 0.1 pJ;
- 64 bits of an on-chip memory of 1 MB, 100 pJ.

Not published but scaled, and so marked wherever it is printed: a
multiplication of integers of other widths, in proportion to the product of
both (PokeBNN, arXiv 2112.00133). Of 32 by 32 bits that gives 3.2 pJ, where
Horowitz has 3.1.
"""

from dataclasses import dataclass, fields

SOURCE = 'Horowitz, ISSCC 2014, 45 nm'


@dataclass
class EnergyCosts:
    """Energy of one operation, in pJ; see above for where it comes from.

    In a config: ``energy_costs = dict(mac_pj=3.1, source='my chip')``.

    Args:
        mac_pj (float): Multiply-accumulate of 32-bit floats. Defaults to
            4.6.
        ac_pj (float): Accumulate of 32-bit floats. Defaults to 0.9.
        int8_multiply_pj (float): Multiplication of 8-bit integers. Defaults
            to 0.2.
        int32_add_pj (float): Addition of 32-bit integers: an accumulate of
            the integer rows, and a part of their multiply-accumulate.
            Defaults to 0.1.
        weight_bit_pj (float): A bit of a weight, read. Defaults to 100 / 64.
        activation_bit_pj (float): A bit of an activation, read or written.
            Defaults to 100 / 64.
        membrane_bit_pj (float): A bit of a membrane potential, read or
            written. Defaults to 100 / 64.
        source (str): Where the figures are from. Defaults to Horowitz, if
            no figure is another.

    Raises:
        ValueError: If they are not positive.
    """
    mac_pj: float = 4.6
    ac_pj: float = 0.9
    int8_multiply_pj: float = 0.2
    int32_add_pj: float = 0.1
    weight_bit_pj: float = 100 / 64
    activation_bit_pj: float = 100 / 64
    membrane_bit_pj: float = 100 / 64
    source: str = ''

    def __post_init__(self) -> None:
        numbers = {f.name: getattr(self, f.name) for f in fields(self)
                   if f.name != 'source'}
        if not all(number > 0 for number in numbers.values()):
            raise ValueError(f'costs must be positive, got {numbers}')
        if not self.source:
            same = all(number == getattr(EnergyCosts, name)
                       for name, number in numbers.items())
            self.source = f'published: {SOURCE}' if same else \
                'of the config, which names no source'

    def millijoule(self, ac: float, mac: float) -> float:
        """Energy of so many operations on 32-bit floats, in mJ."""
        return (self.ac_pj * ac + self.mac_pj * mac) * 1e-9

    def integer_mac(self, weight_bits: float, activation_bits: float) -> float:
        """Give the pJ of a multiply-accumulate of integers of these widths.

        The product is scaled from 8 bits, the sum has 32.
        """
        scale = weight_bits * activation_bits / 64
        return self.int8_multiply_pj * scale + self.int32_add_pj
